package oneshot

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// tmux is a terminal of the lab's user, driven through tmux and read from its screen.
type tmux struct {
	t      *testing.T
	socket string
}

func newTmux(t *testing.T, dir string) tmux {
	t.Helper()
	if _, err := exec.LookPath("tmux"); err != nil {
		t.Skip("no tmux here")
	}
	m := tmux{t, filepath.Join(lab.runtime, "tmux-"+filepath.Base(dir))}
	m.do("-f", "/dev/null", "new-session", "-d", "-x", "100", "-y", "30", "-c", dir, "env", "PS1=host> ", "PATH=/usr/bin:/bin:"+filepath.Dir(lab.bin), "bash", "--norc", "--noprofile")
	t.Cleanup(func() { _ = command(t.Context(), lab.home, "tmux", "-S", m.socket, "kill-server").Run() })
	m.see("host>")
	return m
}

func (m tmux) do(args ...string) string {
	m.t.Helper()
	out, err := command(m.t.Context(), lab.home, append([]string{"tmux", "-u", "-S", m.socket}, args...)...).CombinedOutput()
	if err != nil {
		m.t.Fatalf("tmux %q: %v %s", args, err, out)
	}
	return string(out)
}

func (m tmux) keys(keys ...string) { m.t.Helper(); m.do(append([]string{"send-keys"}, keys...)...) }

func (m tmux) screen() string { m.t.Helper(); return m.do("capture-pane", "-p") }

// see waits until the screen contains a text.
func (m tmux) see(text string) {
	m.t.Helper()
	deadline := time.Now().Add(maxRun)
	for !strings.Contains(m.screen(), text) {
		if time.Now().After(deadline) {
			m.t.Fatalf("no %q on the screen:\n%s", text, m.screen())
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// R14: size, Ctrl-C, UTF-8, job control on both sides, and the terminal after the run.
func TestTerminal(t *testing.T) {
	m := newTmux(t, folder(t, nil))
	m.keys("aivm run --name term", "Enter")
	m.see("$")
	m.keys("PS1='guest> '; stty size; echo grün", "Enter")
	m.see("30 100")
	m.see("grün")
	m.keys("clear; sleep 100", "Enter")
	time.Sleep(time.Second)
	m.keys("C-c")
	m.see("^C")
	m.keys("clear; sleep 200", "Enter")
	time.Sleep(time.Second)
	m.keys("C-z") // the guest's shell has job control
	m.see("Stopped")
	m.keys("kill %1; clear; echo still $((40+2))", "Enter")
	m.see("still 42")
	m.do("resize-window", "-x", "120", "-y", "40")
	time.Sleep(time.Second)
	m.keys("clear; stty size", "Enter")
	m.see("40 120")
	m.keys("exit 3", "Enter")
	m.see("host>")
	m.keys("s=$?; clear; echo status $s; stty -a | grep -o ' icanon'", "Enter")
	m.see("status 3")
	m.see("icanon")
	nothingLeft(t)
}

// When the run's own command stops itself, aivm stops, and fg continues both.
func TestStopAndContinue(t *testing.T) {
	m := newTmux(t, folder(t, nil))
	m.keys(`aivm run -- sh -c 'echo up; kill -STOP $$; echo continued; read x; echo "got $x"'`, "Enter")
	m.see("up")
	m.see("Stopped")
	m.keys("clear; echo at the host; stty -a | grep -o ' icanon'", "Enter")
	m.see("at the host")
	m.see("icanon")
	m.keys("fg", "Enter")
	m.see("continued")
	m.keys("typed", "Enter")
	m.see("got typed")
	m.see("host>")
	nothingLeft(t)
}
