package session

import (
	"context"
	"fmt"
	"strings"

	"aivm.dev/aivm/internal/capture"
	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/ui"
)

// AsRoot runs a script in the guest as root and returns its last words on
// failure.
func (e *Session) RunAsRoot(ctx context.Context, c guest.Conn, what, script string, out *capture.Head) error {
	stderr := capture.Head{Limit: GuestOutputLimit}
	cmd := guest.Cmd{Argv: []string{"sudo", "-n", "sh", "-s"}, Stdin: strings.NewReader(script), Stderr: &stderr}
	if out != nil {
		cmd.Stdout = out
	}
	code, err := c.Run(ctx, cmd)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if code != 0 {
		return ui.Failed("%s failed in the guest (status %d): %s", what, code, LastLine(stderr.String()))
	}
	return nil
}

// GuestWords is how much is kept of what a program in a guest writes.
const GuestOutputLimit = 256 << 10

// LastLine is the last line of what a program wrote, clean and cut to 300 bytes.
func LastLine(s string) string {
	return ui.CleanTo(capture.LastLines(s, 1, ""), 300)
}
