package guestd_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/guestd"
	"aivm.dev/aivm/internal/guestd/agent"
)

// TestMain lets the test program be the agent.
func TestMain(m *testing.M) {
	if os.Getenv("AIVM_TEST_AGENT") != "" {
		os.Exit(agent.Main(os.Args))
	}
	os.Exit(m.Run())
}

// pair is a connection, and the descriptor of its other end.
func pair(t *testing.T) (net.Conn, *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fds[0]), "host")
	conn, err := net.FileConn(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn, os.NewFile(uintptr(fds[1]), "guest")
}

// connect starts an agent on this machine and connects to it.
func connect(t *testing.T) *guestd.Session {
	t.Helper()
	conn, guest := pair(t)
	cmd := exec.Command("/proc/self/exe", "serve", "3")
	cmd.Env = append(os.Environ(), "AIVM_TEST_AGENT=1")
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{guest}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	guest.Close()
	t.Cleanup(func() {
		conn.Close()
		var exit *exec.ExitError
		if err := cmd.Wait(); err != nil && !(errors.As(err, &exit) && exit.ProcessState.Sys().(syscall.WaitStatus).Signaled()) {
			t.Errorf("the agent: %v", err)
		}
	})
	s, err := guestd.Connect(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Setup(t.Context(), guestd.Setup{Hostname: "vm", UID: os.Getuid(), GID: os.Getgid(), User: "user", Home: "/"}); err != nil {
		t.Fatal(err)
	}
	return s
}

func start(t *testing.T, s *guestd.Session, c guestd.Command) *guestd.Process {
	t.Helper()
	if c.Dir == "" {
		c.Dir = "/"
	}
	p, err := s.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// wait waits for a command, for a limited time.
func wait(t *testing.T, p *guestd.Process) guestd.Exit {
	t.Helper()
	type result struct {
		exit guestd.Exit
		err  error
	}
	ended := make(chan result, 1)
	go func() {
		exit, err := p.Wait()
		ended <- result{exit, err}
	}()
	select {
	case r := <-ended:
		if r.err != nil {
			t.Fatal(r.err)
		}
		return r.exit
	case <-time.After(time.Minute):
		t.Fatal("the command does not end")
	}
	return guestd.Exit{}
}

func sh(script string) []string { return []string{"sh", "-c", script} }

func TestCommands(t *testing.T) {
	s := connect(t)
	for name, test := range map[string]struct {
		argv, env   []string
		in          string
		out, errors string
		exit        guestd.Exit
	}{
		"true":      {argv: []string{"true"}},
		"status":    {argv: sh("exit 42"), exit: guestd.Exit{Code: 42}},
		"signal":    {argv: sh("kill -TERM $$"), exit: guestd.Exit{Signal: syscall.SIGTERM}},
		"streams":   {argv: sh("echo out; echo err >&2"), out: "out\n", errors: "err\n"},
		"input":     {argv: []string{"cat"}, in: "a\x00b\xff", out: "a\x00b\xff"},
		"arguments": {argv: []string{"printf", "%s|", "a b", "$x", "*", "", "\"", "\n"}, out: "a b|$x|*||\"|\n|"},
		"variables": {argv: sh(`echo "$A $HOME"`), env: []string{"A=1 2", "HOME=/x"}, out: "1 2 /x\n"},
		"path":      {argv: sh("echo $PATH"), out: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"},
		"group":     {argv: sh("test $(ps -o pgid= -p $$) = $$ && test $(ps -o sid= -p $$) = $$")},
		"daemon":    {argv: sh("sleep 60 & echo started"), out: "started\n"},
		"reopen":    {argv: sh("echo x >/dev/stdout; echo y >/dev/stderr"), out: "x\n", errors: "y\n"},
		"no input":  {argv: sh("exec <&-; echo done"), in: strings.Repeat("x", 1<<20), out: "done\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var out, errs bytes.Buffer
			p := start(t, s, guestd.Command{Argv: test.argv, Env: test.env, Stdin: strings.NewReader(test.in), Stdout: &out, Stderr: &errs})
			exit := wait(t, p)
			if exit != test.exit || out.String() != test.out || errs.String() != test.errors {
				t.Errorf("got %+v, %q, %q", exit, out.String(), errs.String())
			}
		})
	}
}

func TestExitStatus(t *testing.T) {
	for exit, want := range map[guestd.Exit]int{{}: 0, {Code: 3}: 3, {Signal: syscall.SIGKILL}: 137} {
		if got := exit.Status(); got != want {
			t.Errorf("%+v: %d", exit, got)
		}
	}
}

func TestCommandsThatCannotStart(t *testing.T) {
	s := connect(t)
	for name, test := range map[string]struct {
		command guestd.Command
		is      error
		text    string
	}{
		"missing":         {guestd.Command{Argv: []string{"no-such-program"}}, fs.ErrNotExist, "no-such-program: not found"},
		"missing path":    {guestd.Command{Argv: []string{"/no/such"}}, fs.ErrNotExist, "/no/such: not found"},
		"not executable":  {guestd.Command{Argv: []string{"/etc/passwd"}}, fs.ErrPermission, "/etc/passwd: permission denied"},
		"directory":       {guestd.Command{Argv: []string{"/etc"}}, fs.ErrPermission, "/etc: permission denied"},
		"no directory":    {guestd.Command{Argv: []string{"true"}, Dir: "/no/such"}, fs.ErrNotExist, "true: /no/such: no such file or directory"},
		"on a terminal":   {guestd.Command{Argv: []string{"/etc/passwd"}, TTY: &guestd.Size{Rows: 24, Cols: 80}}, fs.ErrPermission, "/etc/passwd: permission denied"},
		"not a directory": {guestd.Command{Argv: []string{"true"}, Dir: "/etc/passwd"}, syscall.ENOTDIR, "true: /etc/passwd: not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			if test.command.Dir == "" {
				test.command.Dir = "/"
			}
			_, err := s.Start(t.Context(), test.command)
			if err == nil || err.Error() != test.text || !errors.Is(err, test.is) {
				t.Errorf("got %v", err)
			}
		})
	}
	if _, err := s.Start(t.Context(), guestd.Command{Argv: []string{"a\x00b"}}); err == nil {
		t.Error("an argument with a NUL byte was accepted")
	}
	wait(t, start(t, s, guestd.Command{Argv: []string{"true"}})) // the session still works
}

// TestLargeStreams sends much more than any window, both ways at once.
func TestLargeStreams(t *testing.T) {
	s := connect(t)
	const size = 24 << 20
	source := bytes.Repeat([]byte("0123456789abcde\n"), size/16)
	out, errs := sha256.New(), sha256.New()
	p := start(t, s, guestd.Command{
		Argv: sh("tee /dev/stderr"), Stdin: bytes.NewReader(source), Stdout: out, Stderr: errs,
	})
	if exit := wait(t, p); exit.Status() != 0 {
		t.Error(exit)
	}
	want := sha256.Sum256(source)
	if !bytes.Equal(out.Sum(nil), want[:]) || !bytes.Equal(errs.Sum(nil), want[:]) {
		t.Error("the streams are not what was sent")
	}
}

// closedAfter is a writer that fails once it has taken some bytes.
type closedAfter struct{ left int }

func (w *closedAfter) Write(b []byte) (int, error) {
	if w.left -= len(b); w.left < 0 {
		return 0, io.ErrClosedPipe
	}
	return len(b), nil
}

// TestNobodyReads checks that a command gets SIGPIPE when its output cannot be written.
func TestNobodyReads(t *testing.T) {
	s := connect(t)
	p := start(t, s, guestd.Command{Argv: []string{"yes"}, Stdout: &closedAfter{100 << 10}})
	exit, err := p.Wait()
	if exit.Signal != syscall.SIGPIPE || !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("got %+v, %v", exit, err)
	}
}

// TestSlowReader checks that a command that writes without end does not stop others.
func TestSlowReader(t *testing.T) {
	s := connect(t)
	r, w := io.Pipe()
	endless := start(t, s, guestd.Command{Argv: []string{"yes"}, Stdout: w})
	for range 3 {
		var out bytes.Buffer
		wait(t, start(t, s, guestd.Command{Argv: []string{"echo", "hi"}, Stdout: &out}))
		if out.String() != "hi\n" {
			t.Error(out.String())
		}
	}
	go io.Copy(io.Discard, r)
	if err := endless.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if exit := wait(t, endless); exit.Signal != syscall.SIGKILL {
		t.Error(exit)
	}
}

func TestSignalReachesTheGroup(t *testing.T) {
	s := connect(t)
	r, w := io.Pipe()
	p := start(t, s, guestd.Command{Argv: sh("sh -c 'trap \"echo inner; exit\" INT; echo ready; sleep 60 & wait' & trap 'wait; exit 7' INT; wait"), Stdout: w})
	line := make([]byte, 6)
	if _, err := io.ReadFull(r, line); err != nil {
		t.Fatal(err)
	}
	rest := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(r)
		rest <- string(b)
	}()
	time.Sleep(100 * time.Millisecond)
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if exit := wait(t, p); exit.Signal != syscall.SIGTERM {
		t.Error(exit)
	}
	w.Close()
	<-rest
}

func TestManyCommands(t *testing.T) {
	s := connect(t)
	var all []*guestd.Process
	for {
		p, err := s.Start(t.Context(), guestd.Command{Argv: []string{"sleep", "60"}, Dir: "/"})
		if err != nil {
			break
		}
		all = append(all, p)
		if len(all) > 100 {
			t.Fatal("there is no limit")
		}
	}
	if len(all) < 8 {
		t.Errorf("only %d commands at once", len(all))
	}
	for _, p := range all {
		_ = p.Signal(syscall.SIGKILL)
		wait(t, p)
	}
	wait(t, start(t, s, guestd.Command{Argv: []string{"true"}}))
}

func TestTheAgentIsLost(t *testing.T) {
	s := connect(t)
	// It is the parent of its commands.
	p := start(t, s, guestd.Command{Argv: sh("kill -KILL $PPID; sleep 1")})
	if _, err := p.Wait(); !errors.Is(err, guestd.ErrGone) {
		t.Errorf("got %v", err)
	}
	<-s.Done()
	if _, err := s.Start(t.Context(), guestd.Command{Argv: []string{"true"}}); !errors.Is(err, guestd.ErrGone) {
		t.Errorf("got %v", err)
	}
}

func TestFlushEndsCommands(t *testing.T) {
	s := connect(t)
	p := start(t, s, guestd.Command{Argv: []string{"yes"}, Stdout: io.Discard})
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if exit := wait(t, p); exit.Signal == 0 {
		t.Error(exit)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := s.Prepare(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Start(ctx, guestd.Command{Argv: []string{"true"}}); err == nil {
		t.Error("the session lasts")
	}
}
