package script

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

var treesMu sync.Mutex

// cmdTTY runs a program with all three streams on a pseudo terminal, and simulates a user: tty STATUS FILE
// PROGRAM ARG... The lines of FILE are "expect TEXT" (wait for it), "send TEXT" (and Enter), "key ^C", "type TEXT" (without Enter). The
// output on the terminal becomes stdout. testscript's own ttyin sends all input at once, which is too
// early for a key that is a signal.
func cmdTTY(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: tty STATUS FILE PROGRAM ARG...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	ctrl, tty, err := openTerminal()
	ts.Check(err)
	defer ctrl.Close()
	cmd := exec.Command(lookPath(ts, args[2]), args[3:]...)
	cmd.Args[0] = args[2]
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = environ(ts)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	ts.Check(cmd.Start())
	tty.Close()
	s := &screen{changed: make(chan struct{}, 1), ended: make(chan struct{})}
	go s.read(ctrl)
	defer func() { fmt.Fprint(ts.Stdout(), s.text()) }()
	seen := 0
	for line := range strings.Lines(ts.ReadFile(args[1])) {
		verb, text, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		switch verb {
		case "expect":
			at, ok := s.wait(text, seen)
			if !ok {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
				ts.Fatalf("%q did not appear on the terminal:\n%s", text, s.text())
			}
			seen = at
		case "send":
			_, err = ctrl.WriteString(os.Expand(text, ts.Getenv) + "\r")
			ts.Check(err)
		case "type":
			_, err = ctrl.WriteString(os.Expand(text, ts.Getenv))
			ts.Check(err)
		case "key":
			_, err = ctrl.WriteString(map[string]string{"^C": "\x03", "^D": "\x04", "Tab": "\t"}[text])
			ts.Check(err)
		}
	}
	timer := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
	err = cmd.Wait()
	timer.Stop()
	<-s.ended
	wantStatus(ts, want, err)
}

// screen collects the output on a terminal.
type screen struct {
	mu      sync.Mutex
	b       strings.Builder
	changed chan struct{}
	ended   chan struct{}
}

func (s *screen) read(f *os.File) {
	defer close(s.ended)
	buf := make([]byte, 4096)
	for {
		n, err := f.Read(buf)
		s.mu.Lock()
		s.b.Write(buf[:n])
		s.mu.Unlock()
		select {
		case s.changed <- struct{}{}:
		default:
		}
		if err != nil { // EIO after the last process has closed the terminal
			return
		}
	}
}

func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// wait waits at most 15 s for a text after an offset and returns the offset of its end.
func (s *screen) wait(text string, from int) (int, bool) {
	late := time.After(15 * time.Second)
	for {
		if all := s.text(); from <= len(all) {
			if i := strings.Index(all[from:], text); i >= 0 {
				return from + i + len(text), true
			}
		}
		select {
		case <-s.changed:
		case <-s.ended:
			i := strings.Index(s.text()[from:], text)
			return from + i + len(text), i >= 0
		case <-late:
			return 0, false
		}
	}
}

// openTerminal returns both ends of a new pseudo terminal (pts(4)).
func openTerminal() (ctrl, tty *os.File, err error) {
	ctrl, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	raw, err := ctrl.SyscallConn()
	if err != nil {
		return nil, nil, err
	}
	var n int
	var ierr error
	if err := raw.Control(func(fd uintptr) {
		if ierr = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); ierr == nil {
			n, ierr = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	}); err != nil {
		return nil, nil, err
	}
	if ierr != nil {
		return nil, nil, ierr
	}
	tty, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	return ctrl, tty, err
}

// environ returns the script's environment, which testscript does not export.
func environ(ts *testscript.TestScript) []string {
	out := []string{"WORK=" + ts.Getenv("WORK"), "PWD=" + ts.MkAbs(".")}
	for _, k := range []string{
		"PATH", "TMPDIR", "HOME", "USER", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "AIVM_SSH_CONFIG", "TERM", "LC_ALL",
		"NO_COLOR", "EDITOR", changeEnv, killEnv, intEnv, pointsEnv, codeEnv,
	} {
		if v := ts.Getenv(k); v != "" {
			out = append(out, k+"="+v)
		}
	}
	return out
}

func lookPath(ts *testscript.TestScript, name string) string {
	for _, d := range strings.Split(ts.Getenv("PATH"), ":") {
		if st, err := os.Stat(d + "/" + name); err == nil && st.Mode().IsRegular() {
			return d + "/" + name
		}
	}
	ts.Fatalf("%s is not in PATH", name)
	return ""
}
