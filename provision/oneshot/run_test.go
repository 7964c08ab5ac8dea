package oneshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"aivm.dev/aivm/internal/guestd"
	"aivm.dev/aivm/internal/template"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/userfs"
	"aivm.dev/aivm/provision/oneshot/terminal"
)

// lab is a machine whose VMs and guests are functions of the test.
type lab struct {
	mu       sync.Mutex
	events   []string
	texts    []string
	resume   func() error // nil: it works
	cold     func() error
	why      string // the saved state cannot be used
	answers  func(n int) error
	setups   []guestd.Setup
	setup    func(s guestd.Setup) error
	started  guestd.Command
	start    func(c guestd.Command) error
	exit     guestd.Exit
	waits    chan struct{} // the command ends when it is closed or a signal arrives; nil: at once
	signals  []syscall.Signal
	changed  []userfs.Written
	cut      bool
	fails    error // of the command
	refuse   error
	connects int
	vm       *VM
	entries  []Described
}

func (l *lab) add(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, fmt.Sprintf(format, args...))
}

func (l *lab) happened(event string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Contains(l.events, event)
}

func (l *lab) Say(format string, args ...any)  { l.say(format, args) }
func (l *lab) Warn(format string, args ...any) { l.say(format, args) }
func (l *lab) say(format string, args []any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.texts = append(l.texts, fmt.Sprintf(format, args...))
}

type fakeBoot struct{ *lab }

func (fakeBoot) Template() string            { return "default" }
func (b fakeBoot) Resumable() (bool, string) { return b.why == "", b.why }
func (b fakeBoot) Resume(_ context.Context, link *os.File) (Machine, error) {
	return b.machine("resume", link, b.resume)
}

func (b fakeBoot) Cold(_ context.Context, link *os.File) (Machine, error) {
	return b.machine("cold", link, b.cold)
}

func (b fakeBoot) machine(how string, link *os.File, fails func() error) (Machine, error) {
	b.add("%s network=%t", how, link != nil)
	if link != nil {
		link.Close()
	}
	if fails != nil {
		if err := fails(); err != nil {
			return nil, err
		}
	}
	return &fakeMachine{b.lab, make(chan struct{})}, nil
}

type fakeMachine struct {
	*lab
	done chan struct{}
}

func (m *fakeMachine) Folders() *os.File      { return nil }
func (m *fakeMachine) Steps() []template.Step { return []template.Step{{Name: "cont", Took: 1}} }
func (m *fakeMachine) Connect(context.Context) (Guest, error) {
	m.connects++
	if m.answers != nil {
		if err := m.answers(m.connects); err != nil {
			return nil, err
		}
	}
	return fakeGuest{m.lab}, nil
}
func (m *fakeMachine) Kill()                 { m.add("kill") }
func (m *fakeMachine) Done() <-chan struct{} { return m.done }
func (m *fakeMachine) Words() string         { return "qemu: it broke" }

type fakeGuest struct{ *lab }

func (g fakeGuest) Setup(_ context.Context, s guestd.Setup) error {
	g.setups = append(g.setups, s)
	if g.lab.setup != nil {
		return g.lab.setup(s)
	}
	return nil
}

func (g fakeGuest) Start(_ context.Context, c guestd.Command) (terminal.Process, error) {
	g.started = c
	if g.start != nil {
		if err := g.start(c); err != nil {
			return nil, err
		}
	}
	g.add("start")
	return fakeProcess{g.lab, make(chan struct{}), make(chan syscall.Signal, 9)}, nil
}
func (g fakeGuest) Flush(context.Context) error { g.add("flush"); return nil }
func (g fakeGuest) Close() error                { return nil }

type fakeProcess struct {
	*lab
	stops chan struct{}
	told  chan syscall.Signal
}

func (p fakeProcess) Resize(guestd.Size) error      { return nil }
func (p fakeProcess) Signal(s syscall.Signal) error { p.told <- s; return nil }
func (p fakeProcess) Stops() <-chan struct{}        { return p.stops }
func (p fakeProcess) Continue() error               { return nil }
func (p fakeProcess) Wait() (guestd.Exit, error) {
	if p.waits == nil {
		return p.exit, p.fails
	}
	select {
	case <-p.waits:
		return p.exit, nil
	case s := <-p.told:
		p.signals = append(p.signals, s)
		if p.fails != nil {
			return guestd.Exit{}, p.fails
		}
		return guestd.Exit{Signal: s}, nil
	}
}

type fakeServer struct{ *lab }

func (s fakeServer) Written() ([]userfs.Written, bool) { return s.changed, s.cut }
func (s fakeServer) Close() error                      { s.add("close folders"); return nil }

type fakeStack struct{ *lab }

func (fakeStack) Setup() *guestd.Network { return &guestd.Network{MTU: 1500} }
func (s fakeStack) Close() error         { s.add("close network"); return nil }

type fakeEntry struct{ *lab }

func (fakeEntry) ID() string                              { return "r1" }
func (e fakeEntry) Serve(_ context.Context, vm *VM) error { e.vm = vm; return nil }
func (e fakeEntry) Close()                                { e.add("close record") }
func (l *lab) run(t *testing.T, o Options) (int, error)   { return l.runner(t).Run(t.Context(), o) }
func (l *lab) printed(text string) bool                   { return strings.Contains(strings.Join(l.texts, "\n"), text) }

func (l *lab) kinds(prefix string) (out []string) {
	return slices.DeleteFunc(slices.Clone(l.events), func(e string) bool { return !strings.HasPrefix(e, prefix) })
}

func plain(argv ...string) Options { return Options{Argv: argv, Workspace: WorkspaceRW, Net: NetNone} }

func (l *lab) runner(t *testing.T) Runner {
	return Runner{
		UI: l, In: strings.NewReader(""), Out: io.Discard, Err: io.Discard, Host: []string{"LANG=C", "SECRET=1", "LC_ALL=x"}, Cwd: t.TempDir(), UID: 4410, GID: 4411,
		Refuse:   func(string, bool, []string) error { return l.refuse },
		Boot:     func(context.Context, Options) (Boot, error) { return fakeBoot{l}, nil },
		Register: func(d Described) (Entry, error) { l.entries = append(l.entries, d); return fakeEntry{l}, nil },
		Children: Children{
			Folders: func(context.Context, []Folder, *os.File) (FolderServer, error) { return fakeServer{l}, nil },
			Network: func(context.Context, *os.File, io.Writer) (Stack, error) { return fakeStack{l}, nil },
		},
	}
}

func TestRun(t *testing.T) {
	l := &lab{exit: guestd.Exit{Code: 7}, changed: []userfs.Written{{Path: ".envrc"}}}
	r := l.runner(t)
	code, err := r.Run(t.Context(), plain("x", "$HOME `id` \"q\" \\"))
	if err != nil || code != 7 {
		t.Fatal(code, err)
	}
	dir, err := filepath.EvalSymlinks(r.Cwd)
	if err != nil {
		t.Fatal(err)
	}
	// /tmp/... of the test is a path the guest can have.
	want := guestd.Mount{Export: 0, Path: dir, Also: []string{Workspace}, Transport: guestd.Relay}
	if s := l.setups[0]; s.Hostname != "r1" || s.UID != 4410 || s.GID != 4411 || len(s.Mounts) != 1 || fmt.Sprint(s.Mounts[0]) != fmt.Sprint(want) || s.Network != nil {
		t.Errorf("%+v", s)
	}
	if c := l.started; !slices.Equal(c.Env, []string{"LANG=C", "LC_ALL=x", "AIVM=1"}) || c.Dir != dir || c.Argv[1] != "$HOME `id` \"q\" \\" || c.TTY != nil || c.Root {
		t.Errorf("%+v", c)
	}
	if !slices.Equal(l.events, []string{"resume network=false", "start", "flush", "kill", "close folders", "close record"}) {
		t.Errorf("%q", l.events)
	}
	if !l.printed(".envrc") || l.entries[0].Folder != dir || l.entries[0].Argv[0] != "x" {
		t.Errorf("%q %+v", l.texts, l.entries)
	}
}

// What the guest changed is reported however the run ends.
func TestChangesAreReported(t *testing.T) {
	changed := []userfs.Written{{Path: ".envrc"}}
	failed := errors.New("failed")
	for name, l := range map[string]*lab{
		"protocol":   {fails: guestd.ErrProtocol},
		"setup":      {setup: func(guestd.Setup) error { return failed }},
		"start":      {start: func(guestd.Command) error { return failed }},
		"no command": {start: func(guestd.Command) error { return &guestd.StartError{Name: "x", Errno: syscall.ENOENT} }},
		"no answer":  {answers: func(int) error { return failed }},
	} {
		l.changed = changed
		if _, err := l.run(t, plain("x")); err == nil && name != "no command" || !l.printed(".envrc") {
			t.Errorf("%s: %v %q", name, err, l.texts)
		}
	}
	l := &lab{cut: true}
	if _, err := l.run(t, plain("x")); err != nil || !l.printed("run or obey") {
		t.Errorf("only that there are more is known: %v %q", err, l.texts)
	}
}

// A guest that is stuck or breaks the protocol when it is to end does not change the status.
func TestTimeoutOfAFailedGuest(t *testing.T) {
	for _, fails := range []error{guestd.ErrStuck, guestd.ErrGone, guestd.ErrProtocol} {
		l := &lab{waits: make(chan struct{}), fails: fails}
		o := plain("x")
		o.Timeout = 10 * time.Millisecond
		if code, err := l.run(t, o); err != nil || code != 124 {
			t.Errorf("%v: %d %v", fails, code, err)
		}
	}
}

func TestRunWithoutFolders(t *testing.T) {
	l := &lab{}
	o := plain("true")
	o.Workspace, o.Net, o.Name = WorkspaceNone, NetOpen, "named"
	if code, err := l.run(t, o); err != nil || code != 0 {
		t.Fatal(code, err)
	}
	if l.happened("flush") || l.happened("close folders") || !l.happened("close network") || l.started.Dir != GuestHome || l.setups[0].Network == nil || l.setups[0].Hostname != "named" {
		t.Errorf("%q %+v", l.events, l.setups)
	}
	l = &lab{}
	if o.Workspace = WorkspaceRO; func() error { _, err := l.run(t, o); return err }() != nil || l.happened("flush") {
		t.Errorf("a read-only folder: %q", l.events)
	}
}

// A saved state that does not work is discarded, and the VM is booted.
func TestBoots(t *testing.T) {
	silent := errors.New("silent")
	for name, l := range map[string]*lab{
		"stale":   {why: "is stale: another QEMU"},
		"refused": {resume: func() error { return silent }},
		"silent": {answers: func(n int) error {
			if n == 1 {
				return silent
			}
			return nil
		}},
	} {
		if code, err := l.run(t, plain("true")); err != nil || code != 0 {
			t.Errorf("%s: %d %v", name, code, err)
		}
		if !l.happened("cold network=false") || !l.printed("booted instead") || name == "silent" && len(l.kinds("kill")) != 2 {
			t.Errorf("%s: %q %q", name, l.events, l.texts)
		}
	}
	l := &lab{resume: func() error { return silent }, cold: func() error { return silent }}
	if _, err := l.run(t, plain("true")); !errors.Is(err, silent) || !l.happened("close record") {
		t.Errorf("%v %q", err, l.events)
	}
}

func TestRefusedFolder(t *testing.T) {
	l := &lab{refuse: ui.Refused("it holds the home")}
	if _, err := l.run(t, plain("true")); err == nil || !strings.Contains(err.Error(), "home") || l.connects != 0 || len(l.kinds("cold")) != 0 || !l.happened("kill") || l.happened("close folders") {
		t.Errorf("%v %q", err, l.events)
	}
}

func TestNotStarted(t *testing.T) {
	for errno, want := range map[syscall.Errno]int{syscall.ENOENT: 127, syscall.EACCES: 126} {
		l := &lab{start: func(guestd.Command) error { return &guestd.StartError{Name: "x", Reason: "no", Errno: errno} }}
		if code, err := l.run(t, plain("x")); err != nil || code != want || !l.printed("does not start") || !l.happened("kill") {
			t.Errorf("%v: %d %v %q", errno, code, err, l.texts)
		}
	}
	l := &lab{start: func(guestd.Command) error { return guestd.ErrGone }}
	if _, err := l.run(t, plain("x")); !errors.Is(err, guestd.ErrGone) {
		t.Error(err)
	}
}

// A guest that has something at the folder's path gets it at /workspace.
func TestPathConflict(t *testing.T) {
	l := &lab{}
	l.setup = func(s guestd.Setup) error {
		if s.Mounts[0].Path != Workspace {
			return &guestd.ConflictError{Path: s.Mounts[0].Path}
		}
		return nil
	}
	if _, err := l.run(t, plain("x")); err != nil || l.started.Dir != Workspace || !l.printed(Workspace) || len(l.setups[1].Mounts[0].Also) != 0 {
		t.Errorf("%v %+v", err, l.setups)
	}
}

// A signal during the start ends the run, and later ones reach the command.
func TestSignals(t *testing.T) {
	l := &lab{}
	l.answers = func(int) error {
		_ = syscall.Kill(os.Getpid(), syscall.SIGHUP)
		time.Sleep(300 * time.Millisecond)
		return errors.New("interrupted")
	}
	if code, err := l.run(t, plain("x")); err != nil || code != 129 || l.happened("start") || !l.happened("kill") || len(l.kinds("cold")) != 0 {
		t.Errorf("%d %v %q", code, err, l.events)
	}
	l = &lab{waits: make(chan struct{})}
	o := plain("x")
	o.Timeout = 10 * time.Millisecond
	if code, err := l.run(t, o); err != nil || code != 124 || !l.happened("flush") || !l.printed("longer than") {
		t.Errorf("%d %v %q", code, err, l.events)
	}
}

func TestTimings(t *testing.T) {
	var out bytes.Buffer
	l := &lab{}
	r, o := l.runner(t), plain("x")
	r.Err, o.Timings = &out, true
	if _, err := r.Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"template", "start the VM", "wait for the guest", "the command", "in all"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}
