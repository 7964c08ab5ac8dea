package session

import (
	"context"
	"fmt"
	"strings"

	"aivm.dev/aivm/internal/capture"
	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/ui"
)

// RunAsRoot runs a script in the guest as root. Its error has the exit status and the last line
// of stderr; what names the action.
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

// GuestOutputLimit is how many bytes of a guest program's output are kept.
const GuestOutputLimit = 256 << 10

// LastLine returns the last line of s, with control characters escaped, cut to 300 bytes.
func LastLine(s string) string {
	return ui.CleanTo(capture.LastLines(s, 1, ""), 300)
}
