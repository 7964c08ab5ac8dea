package roottest

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// A Receiver is a shell in a second mount namespace, to which mounts propagate as to
// that of virtiofsd.
type Receiver struct {
	T   *testing.T
	In  io.WriteCloser
	Out *bufio.Scanner
	Cmd *exec.Cmd
	PID int
}

// NewReceiver starts a receiver with sh.
func NewReceiver(t *testing.T) *Receiver {
	t.Helper()
	return Receive(t, "sh")
}

// Receive starts a receiver with this shell and arguments.
func Receive(t *testing.T, shell ...string) *Receiver {
	t.Helper()
	cmd := exec.Command("unshare", append([]string{"-m", "--propagation", "slave"}, shell...)...)
	in, err := cmd.StdinPipe()
	Must(t, err)
	out, err := cmd.StdoutPipe()
	Must(t, err)
	cmd.Stderr = os.Stderr
	Must(t, cmd.Start())
	t.Cleanup(func() { in.Close(); _ = cmd.Wait() })
	r := &Receiver{T: t, In: in, Out: bufio.NewScanner(out), Cmd: cmd, PID: cmd.Process.Pid}
	r.Run("true") // waits until the namespace exists
	return r
}

// Run runs a line in the shell and returns its output and exit status.
func (r *Receiver) Run(line string) (string, int) {
	r.T.Helper()
	fmt.Fprintf(r.In, "{ %s\n} 2>&1; echo \"==$?\"\n", line)
	var b strings.Builder
	for r.Out.Scan() {
		// A program may end without a newline before the mark.
		if text, status, ok := strings.Cut(r.Out.Text(), "=="); ok {
			b.WriteString(text)
			code := 0
			fmt.Sscan(status, &code)
			return strings.TrimSpace(b.String()), code
		}
		b.WriteString(r.Out.Text() + "\n")
	}
	r.T.Fatalf("the shell ended at %q", line)
	return "", 0
}

// OK runs a line, which must succeed.
func (r *Receiver) OK(line string) string {
	r.T.Helper()
	out, code := r.Run(line)
	if code != 0 {
		r.T.Fatalf("%s: status %d: %s", line, code, out)
	}
	return out
}

// Fails runs a line, which must fail with these words.
func (r *Receiver) Fails(line, want string) {
	r.T.Helper()
	if out, code := r.Run(line); code == 0 || !strings.Contains(out, want) {
		r.T.Errorf("%s: status %d, %q; want a failure with %q", line, code, out, want)
	}
}

// End ends the receiver as the stop of a VM ends its daemon.
func (r *Receiver) End() {
	r.In.Close()
	for r.Out.Scan() {
	}
	_ = r.Cmd.Wait()
}
