package runs

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/guestd"
	"aivm.dev/aivm/internal/ui"
)

func TestAt(t *testing.T) {
	dir, uid := t.TempDir(), os.Getuid()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		runtime string
		uid     int
		want    string
	}{
		{dir, uid, filepath.Join(dir, "aivm", "runs")},
		{dir, uid + 1, "/state/runs"}, // another user's
		{"", uid, "/state/runs"},
		{"relative", uid, "/state/runs"},
		{file, uid, "/state/runs"},
		{filepath.Join(dir, "absent"), uid, "/state/runs"},
	} {
		if got := At(tc.runtime, "/state", tc.uid).Dir; got != tc.want {
			t.Errorf("%q, uid %d: %s, want %s", tc.runtime, tc.uid, got, tc.want)
		}
	}
}

func TestNames(t *testing.T) {
	for name, ok := range map[string]bool{"a": true, "build-2": true, NewID(): true, "": false, "-a": false, "a-": false, "A": false, "a/b": false, "..": false, strings.Repeat("a", 33): false} {
		if err := CheckName(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// A run is there until it is closed, and a name belongs to one run at a time.
func TestRegister(t *testing.T) {
	r := Registry{filepath.Join(t.TempDir(), "aivm", "runs")}
	if l, err := r.List(); err != nil || len(l) != 0 {
		t.Fatalf("%v %v", l, err)
	}
	began := time.Now()
	a, err := r.Register(Record{Name: "one", Folder: "/p", Argv: []string{"make"}, Started: began})
	if err != nil {
		t.Fatal(err)
	}
	var refused *ui.Error
	if _, err := r.Register(Record{Name: "one"}); !errors.As(err, &refused) || refused.Kind != "refused" {
		t.Errorf("the same name: %v", err)
	}
	if _, err := r.Register(Record{Name: "No"}); err == nil {
		t.Error("a name that is none")
	}
	b, err := r.Register(Record{Argv: []string{strings.Repeat("x", maxRecord)}, Started: began.Add(time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	l, err := r.List()
	if err != nil || len(l) != 2 || l[0].Name != "one" || l[0].Folder != "/p" || l[0].State != "running" || l[1].Name != l[1].ID || len(l[1].Argv) > 2 {
		t.Fatalf("%+v %v", l, err)
	}
	for _, name := range []string{"one", a.ID} {
		if rec, err := r.Find(name); err != nil || rec.ID != a.ID {
			t.Errorf("%s: %+v %v", name, rec, err)
		}
	}
	if st, err := os.Stat(filepath.Join(r.Dir, a.ID)); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("%v %v", st, err)
	}
	a.Close()
	b.Close()
	if _, err := r.Find("one"); err == nil {
		t.Error("a run that was closed is found")
	}
	if e, err := os.ReadDir(r.Dir); err != nil || len(e) != 1 { // the lock of the names
		t.Errorf("left: %v %v", e, err)
	}
}

// A killed run leaves its directory; the next list removes it, and does not touch what is not a run's.
func TestKilledRunIsRemoved(t *testing.T) {
	if dir := os.Getenv("REGISTER"); dir != "" {
		if _, err := (Registry{dir}).Register(Record{Name: "killed"}); err != nil {
			os.Exit(3)
		}
		os.Stdout.WriteString("up\n")
		time.Sleep(time.Minute)
	}
	r := Registry{t.TempDir()}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(self, "-test.run=^TestKilledRunIsRemoved$")
	c.Env = append(os.Environ(), "REGISTER="+r.Dir)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer c.Process.Kill()
	if _, err := io.ReadFull(out, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	if l, err := r.List(); err != nil || len(l) != 1 || l[0].PID != c.Process.Pid {
		t.Fatalf("%+v %v", l, err)
	}
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait()
	if err := os.Mkdir(filepath.Join(r.Dir, newPrefix+"young"), 0o700); err != nil { // a run that starts now
		t.Fatal(err)
	}
	own, err := r.Register(Record{}) // as a plain run does
	if err != nil {
		t.Fatal(err)
	}
	own.Close()
	e, err := os.ReadDir(r.Dir)
	if err != nil || len(e) != 2 {
		t.Errorf("left: %v %v", e, err)
	}
	if _, err := os.Stat(filepath.Join(r.Dir, newPrefix+"young")); err != nil {
		t.Error(err)
	}
}

// machine is a VM that runs a function instead of a command.
type machine struct {
	run   func(p *command)
	ended chan struct{}
}

func (m *machine) Start(_ context.Context, c guestd.Command) (Process, error) {
	if c.Argv[0] == "absent" {
		return nil, fs.ErrNotExist
	}
	p := &command{Command: c, signals: make(chan syscall.Signal, 9), sizes: make(chan guestd.Size, 9), resumed: make(chan struct{}, 9), stops: make(chan struct{}, 1), exit: make(chan guestd.Exit, 1)}
	go m.run(p)
	return p, nil
}
func (m *machine) End() { close(m.ended) }

type command struct {
	guestd.Command
	signals chan syscall.Signal
	sizes   chan guestd.Size
	resumed chan struct{}
	stops   chan struct{}
	exit    chan guestd.Exit
}

func (p *command) Resize(s guestd.Size) error    { p.sizes <- s; return nil }
func (p *command) Signal(s syscall.Signal) error { p.signals <- s; return nil }
func (p *command) Wait() (guestd.Exit, error)    { return <-p.exit, nil }
func (p *command) Stops() <-chan struct{}        { return p.stops }
func (p *command) Continue() error               { p.resumed <- struct{}{}; return nil }

// serving registers a run whose VM runs the function.
func serving(t *testing.T, run func(p *command)) (Registry, Record, *machine) {
	t.Helper()
	r := Registry{filepath.Join(t.TempDir(), strings.Repeat("long", 40))} // longer than a socket's address
	g, err := r.Register(Record{Name: "work"})
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{run: run, ended: make(chan struct{})}
	stop, err := g.Serve(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(); g.Close() })
	return r, g.Record, m
}

func TestExec(t *testing.T) {
	sent := bytes.Repeat([]byte("\x00\xff\r\n"), 100000)
	r, rec, _ := serving(t, func(p *command) {
		in, err := io.ReadAll(p.Stdin)
		if err != nil || !bytes.Equal(in, sent) || p.Argv[1] != "$HOME `id` \"q\" \\" || p.TTY != nil {
			t.Errorf("%d bytes, %v, %q", len(in), err, p.Argv)
		}
		_, _ = p.Stdout.Write(sent)
		_, _ = io.WriteString(p.Stderr, "an error")
		p.exit <- guestd.Exit{Code: 9}
	})
	var out, errs bytes.Buffer
	p, err := r.Exec(rec, Command{Argv: []string{"x", "$HOME `id` \"q\" \\", strings.Repeat("long", 100<<10)}}, Streams{bytes.NewReader(sent), &out, &errs})
	if err != nil {
		t.Fatal(err)
	}
	if x, err := p.Wait(); err != nil || x.Code != 9 {
		t.Errorf("%+v %v", x, err)
	}
	if !bytes.Equal(out.Bytes(), sent) || errs.String() != "an error" {
		t.Errorf("%d bytes, %q", out.Len(), errs.String())
	}
	if _, err := r.Exec(rec, Command{Argv: []string{"absent"}}, Streams{}); err == nil || !strings.Contains(err.Error(), "not exist") {
		t.Errorf("%v", err)
	}
}

func TestExecOnATerminal(t *testing.T) {
	r, rec, _ := serving(t, func(p *command) {
		if p.TTY == nil || *p.TTY != (guestd.Size{Rows: 3, Cols: 4}) {
			t.Errorf("%+v", p.TTY)
		}
		if s := <-p.sizes; s != (guestd.Size{Rows: 5, Cols: 6}) {
			t.Errorf("%+v", s)
		}
		p.stops <- struct{}{}
		<-p.resumed
		p.exit <- guestd.Exit{Signal: <-p.signals}
	})
	p, err := r.Exec(rec, Command{Argv: []string{"x"}, TTY: true, Size: guestd.Size{Rows: 3, Cols: 4}}, Streams{strings.NewReader(""), io.Discard, io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Resize(guestd.Size{Rows: 5, Cols: 6}); err != nil {
		t.Fatal(err)
	}
	<-p.Stops()
	if err := errors.Join(p.Continue(), p.Signal(syscall.SIGINT)); err != nil {
		t.Fatal(err)
	}
	if x, err := p.Wait(); err != nil || x.Signal != syscall.SIGINT {
		t.Errorf("%+v %v", x, err)
	}
}

// A client that is killed ends its command; a run that is killed ends the client.
func TestOneSideIsGone(t *testing.T) {
	told := make(chan syscall.Signal, 1)
	r, rec, _ := serving(t, func(p *command) {
		s := <-p.signals
		told <- s
		p.exit <- guestd.Exit{Signal: s}
	})
	p, err := r.Exec(rec, Command{Argv: []string{"x"}}, Streams{strings.NewReader(""), io.Discard, io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	p.(*remote).conn.Close()
	if s := <-told; s != syscall.SIGHUP {
		t.Errorf("%v", s)
	}
	if _, err := p.Wait(); err == nil {
		t.Error("a connection that ended is no error")
	}
}

func TestStop(t *testing.T) {
	r := Registry{t.TempDir()}
	g, err := r.Register(Record{Name: "work"})
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{ended: make(chan struct{})}
	stop, err := g.Serve(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	go func() { <-m.ended; time.Sleep(100 * time.Millisecond); stop(); g.Close() }()
	if err := r.Stop(g.Record); err != nil {
		t.Error(err)
	}
	if l, err := r.List(); err != nil || len(l) != 0 {
		t.Errorf("%v %v", l, err)
	}
	if err := r.Stop(g.Record); err == nil {
		t.Error("a run that ended was stopped")
	}
}

// What a client sends that is no request closes its connection, and nothing else.
func TestNoRequest(t *testing.T) {
	r, rec, _ := serving(t, func(p *command) { p.exit <- guestd.Exit{} })
	for _, text := range []string{"\n", "{}", `{"exec":{"argv":["x"]}}`, `{"stop":"x"}`, "GET / HTTP/1.1\r\n\r\n", strings.Repeat("[", 100000)} {
		c, _, err := r.dial(rec)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, text)
		_ = c.CloseWrite()
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		var timeout net.Error
		if b, err := io.ReadAll(c); len(b) > 0 || errors.As(err, &timeout) && timeout.Timeout() {
			t.Errorf("%.20q: %q %v", text, b, err)
		}
		c.Close()
	}
	p, err := r.Exec(rec, Command{Argv: []string{"x"}}, Streams{strings.NewReader(""), io.Discard, io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	if x, err := p.Wait(); err != nil || x.Code != 0 {
		t.Errorf("%+v %v", x, err)
	}
}

// A directory in which another user can put runs is refused.
func TestOthersDirectory(t *testing.T) {
	for _, which := range []string{"", "runs"} {
		parent := filepath.Join(t.TempDir(), "aivm")
		r := Registry{filepath.Join(parent, "runs")}
		if err := os.MkdirAll(r.Dir, 0o700); err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(parent, which)
		refused := func(what string) {
			var refusal *ui.Error
			if _, err := r.Register(Record{}); !errors.As(err, &refusal) || refusal.Kind != "refused" {
				t.Errorf("%s %s: %v", dir, what, err)
			}
			if _, err := r.List(); err == nil {
				t.Errorf("%s %s: listed", dir, what)
			}
		}
		for _, mode := range []os.FileMode{0o770, 0o707} {
			if err := os.Chmod(dir, mode); err != nil {
				t.Fatal(err)
			}
			refused(mode.String())
		}
		if err := os.Chmod(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if os.Geteuid() == 0 {
			if err := os.Chown(dir, 65534, 65534); err != nil {
				t.Fatal(err)
			}
			refused("of another user")
		}
	}
}

// Nothing is sent to a socket of another user.
func TestOthersSocket(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("listening as another user needs root")
	}
	r := Registry{t.TempDir()}
	g, err := r.Register(Record{Name: "work"})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	t.Chdir(filepath.Join(r.Dir, g.ID))
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: controlName}); err != nil {
		t.Fatal(err)
	}
	listening := make(chan error)
	go func() {
		runtime.LockOSThread() // not unlocked: the thread, and its user, end with the function
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); e != 0 {
			listening <- e
			return
		}
		listening <- unix.Listen(fd, 1)
	}()
	if err := <-listening; err != nil {
		t.Fatal(err)
	}
	if _, err := r.Exec(g.Record, Command{Argv: []string{"x"}}, Streams{}); err == nil || !strings.Contains(err.Error(), "another user") {
		t.Errorf("exec: %v", err)
	}
	if err := r.Stop(g.Record); err == nil || !strings.Contains(err.Error(), "another user") {
		t.Errorf("stop: %v", err)
	}
}
