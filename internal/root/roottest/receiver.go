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

// A Receiver is a shell in a second mount namespace that receives what is
// mounted here, as virtiofsd's does.
type Receiver struct {
	T   *testing.T
	In  io.WriteCloser
	Out *bufio.Scanner
	Cmd *exec.Cmd
	PID int
}

// NewReceiver is Receive with a plain shell.
func NewReceiver(t *testing.T) *Receiver {
	t.Helper()
	return Receive(t, "sh")
}

// Receive is a receiver with a shell of one's own.
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
	r.Run("true") // the namespace is there now
	return r
}

// Run runs a line there and returns what it printed, and its status.
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

// OK is Run, which must work.
func (r *Receiver) OK(line string) string {
	r.T.Helper()
	out, code := r.Run(line)
	if code != 0 {
		r.T.Fatalf("%s: status %d: %s", line, code, out)
	}
	return out
}

// Fails wants a failure with these words.
func (r *Receiver) Fails(line, want string) {
	r.T.Helper()
	if out, code := r.Run(line); code == 0 || !strings.Contains(out, want) {
		r.T.Errorf("%s: status %d, %q; want a failure with %q", line, code, out, want)
	}
}

// End ends the daemon as the stop of its VM does.
func (r *Receiver) End() {
	r.In.Close()
	for r.Out.Scan() {
	}
	_ = r.Cmd.Wait()
}
