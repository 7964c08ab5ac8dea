package oneshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"aivm.dev/aivm/internal/guestd"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/oneshot/terminal"
)

// Console prints what a run tells its user, on stderr.
type Console interface {
	Say(format string, args ...any)
	Warn(format string, args ...any)
}

// Runner runs commands in fresh VMs.
type Runner struct {
	UI            Console
	In            io.Reader
	Out, Err      io.Writer
	InTTY, OutTTY bool
	Host          []string // the environment of this process
	Cwd           string
	UID, GID      int
	// Refuse returns why a folder is not given to a guest; nil if it is.
	Refuse func(host string, writable bool, allow []string) error
	// Boot finds the template and starts VMs from it.
	Boot func(ctx context.Context, o Options) (Boot, error)
	// Register records the run.
	Register func(r Described) (Entry, error)
	// Children starts the other processes of a run.
	Children Children
}

// Described is what the record of a run contains.
type Described struct {
	Name, Folder, Template, Net string
	Argv                        []string
	Started                     time.Time
}

// Entry is the record of this run while it runs.
type Entry interface {
	ID() string
	Serve(ctx context.Context, vm *VM) error
	Close()
}

// Run runs the command and returns its exit status. Every error is aivm's own.
func (r Runner) Run(parent context.Context, o Options) (int, error) {
	t := NewTimings()
	signals, unsubscribe := terminal.Notify()
	defer unsubscribe()
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(parent))
	defer cancel(nil)
	u := &run{Runner: r, options: o, timings: t, asked: make(chan struct{})}
	defer u.close()
	if o.Timings {
		defer t.Print(r.Err)
	}
	started, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		watch(signals, u.asked, started, cancel)
	}()
	p, err := u.start(ctx)
	close(started)
	<-watched
	if received, ok := context.Cause(ctx).(signalled); ok {
		if err != nil {
			return 128 + int(received), nil
		}
		ctx = context.WithoutCancel(ctx) // the command has started: it is told
		select {
		case <-u.asked: // Attach sees it
		default:
			signals <- syscall.Signal(received)
		}
	}
	var notStarted *guestd.StartError
	if errors.As(err, &notStarted) {
		u.UI.Warn("the command does not start: %s", ui.CleanTo(err.Error(), 500))
		return notStartedStatus(notStarted), nil
	}
	if err != nil {
		return 0, err
	}
	return u.attach(ctx, p, signals)
}

// notStartedStatus returns the exit status a shell has for a command that it cannot start.
func notStartedStatus(e *guestd.StartError) int {
	if errors.Is(e, os.ErrNotExist) {
		return 127
	}
	return 126
}

// signalled is the cause of a start that a signal ended.
type signalled syscall.Signal

func (s signalled) Error() string { return syscall.Signal(s).String() }

// watch cancels the start of a run at a signal that ends programs.
func watch(signals <-chan os.Signal, asked, started <-chan struct{}, cancel context.CancelCauseFunc) {
	for {
		select {
		case <-started:
			return
		case <-asked:
			cancel(signalled(syscall.SIGTERM))
			return
		case s := <-signals:
			if n, ok := ended(s); ok {
				cancel(signalled(n))
				return
			}
		}
	}
}

// run is one run.
type run struct {
	Runner
	options Options
	timings *Timings
	folders []Folder
	entry   Entry
	child   children
	dir     string // of the command
	env     []string

	ask   sync.Once
	asked chan struct{} // closed when the run is to end
}

// end makes the run end, as SIGTERM does.
func (u *run) end() { u.ask.Do(func() { close(u.asked) }) }

// start starts everything up to the command.
func (u *run) start(ctx context.Context) (terminal.Process, error) {
	if err := u.prepare(); err != nil {
		return nil, err
	}
	done := u.timings.Step("template")
	boot, err := u.Boot(ctx, u.options)
	done()
	if err != nil {
		return nil, err
	}
	done = u.timings.Step("record")
	err = u.register(boot)
	done()
	if err != nil {
		return nil, err
	}
	if err := u.bootVM(ctx, boot); err != nil {
		return nil, err
	}
	done = u.timings.Step("set the guest up")
	err = u.setup(ctx)
	done()
	if err != nil {
		return nil, u.explain(err)
	}
	if err := u.entry.Serve(ctx, &VM{guest: u.child.guest, run: u}); err != nil {
		return nil, ui.Failed("answering other commands about the run: %w", err)
	}
	done = u.timings.Step("start the command")
	defer done()
	p, err := u.child.guest.Start(ctx, u.command())
	var notStarted *guestd.StartError
	if errors.As(err, &notStarted) {
		return nil, err
	}
	if err != nil {
		return nil, u.explain(ui.Failed("starting the command: %w", err))
	}
	return p, nil
}

// prepare decides what the guest gets, without starting anything.
func (u *run) prepare() error {
	if err := u.options.Check(); err != nil {
		return err
	}
	var note string
	var err error
	if u.folders, note, err = u.options.Folders(u.Cwd); err != nil {
		return err
	}
	if note != "" {
		u.UI.Say("%s", note)
	}
	var missing []string
	u.env, missing = environment(u.options.Env, u.Host)
	if len(missing) > 0 {
		u.UI.Warn("not set here, so not in the guest either: %s", ui.Clean(strings.Join(missing, ", ")))
	}
	u.dir = GuestHome
	if len(u.folders) > 0 && u.folders[0].current {
		u.dir = u.folders[0].Guest
	}
	return nil
}

func (u *run) register(boot Boot) error {
	d := Described{Name: u.options.Name, Template: boot.Template(), Net: u.options.Net, Argv: u.options.Argv, Started: time.Now()}
	if len(u.folders) > 0 && u.folders[0].current {
		d.Folder = u.folders[0].Host
	}
	entry, err := u.Register(d)
	if err == nil {
		u.entry = entry
	}
	return err
}

// command returns the command as the guest runs it.
func (u *run) command() guestd.Command {
	c := guestd.Command{Argv: u.options.Argv, Dir: u.dir, Env: u.env, Root: u.options.Root, Stdin: u.In, Stdout: u.Out, Stderr: u.Err}
	if len(c.Argv) == 0 {
		c.Argv = Shell
	}
	if u.terminal() != nil {
		size := u.terminal().Size()
		c.TTY = &size
	}
	return c
}

// Shell is what runs without a command.
var Shell = []string{"/bin/sh", "-c", `if [ -x /bin/bash ]; then exec /bin/bash -l; fi; exec /bin/sh -l`}

// terminal returns the terminal of this process if the command uses it, else nil.
func (u *run) terminal() *terminal.Terminal {
	if !WantsTerminal(len(u.options.Argv) > 0, u.InTTY, u.OutTTY, u.options.TTY, u.options.NoTTY) {
		return nil
	}
	f, _ := u.In.(*os.File)
	return terminal.Of(f)
}

// attach connects the command to this process until it ends, and returns its exit status.
func (u *run) attach(ctx context.Context, p terminal.Process, signals <-chan os.Signal) (int, error) {
	done := u.timings.Step("the command")
	result, err := terminal.Attach(p, terminal.Options{Terminal: u.terminal(), Signals: signals, Timeout: u.options.Timeout, Ask: u.asked})
	done()
	forced := result.Received != 0 || result.TimedOut
	switch {
	case forced && sessionFailed(err):
		// The command was to end, and nothing of the guest counts any more.
		result.Exit = guestd.Exit{Signal: syscall.SIGKILL}
	case err == nil, forced && errors.Is(err, terminal.ErrNoEnd), errors.Is(err, syscall.EPIPE) && !errors.Is(err, guestd.ErrGone):
		// Nobody reads the output any more: the command got SIGPIPE, as it would here.
	default:
		return 0, u.explain(ui.Failed("running the command: %w", err))
	}
	u.flush(ctx, forced)
	done = u.timings.Step("end the VM")
	u.close()
	done()
	if result.TimedOut {
		u.UI.Warn("the command ran longer than %s and was ended", u.options.Timeout)
	}
	return result.Code(), nil
}

// sessionFailed reports whether the error is that of a connection whose guest is gone or hostile.
func sessionFailed(err error) bool {
	return errors.Is(err, guestd.ErrStuck) || errors.Is(err, guestd.ErrGone) || errors.Is(err, guestd.ErrProtocol)
}

// flush writes what the guest has not written to the folders yet. A guest that was told to end has little
// time for it.
func (u *run) flush(ctx context.Context, forced bool) {
	writable := false
	for _, f := range u.folders {
		writable = writable || !f.ReadOnly
	}
	if !writable {
		return
	}
	defer u.timings.Step("write to the folders")()
	limit := 20 * time.Second
	if forced {
		limit = 1200 * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := u.child.guest.Flush(ctx); err != nil && (ctx.Err() != nil || errors.Is(err, guestd.ErrStuck)) {
		u.UI.Warn("the guest did not confirm that everything is written to the folder")
	}
}

// explain adds to an error what is known about the VM's end.
func (u *run) explain(err error) error {
	if u.child.machine == nil {
		return err
	}
	select {
	case <-u.child.machine.Done():
	case <-time.After(50 * time.Millisecond):
		return err
	}
	words := u.child.machine.Words()
	if words == "" {
		words = "without a message"
	}
	return ui.Failed("%w: the VM ended: %s", err, ui.CleanTo(words, 500))
}

// close ends everything of the run that still exists.
func (u *run) close() {
	u.endChildren()
	if u.entry != nil {
		u.entry.Close()
		u.entry = nil
	}
}

// hostname returns the name of the guest: the run's.
func (u *run) hostname() string {
	if u.options.Name != "" {
		return u.options.Name
	}
	if u.entry != nil {
		return u.entry.ID()
	}
	return "aivm"
}

// VM is the VM of a run, for other processes of the user.
type VM struct {
	guest Guest
	run   *run
}

// Start starts a further command in the VM.
func (v *VM) Start(ctx context.Context, c guestd.Command) (terminal.Process, error) {
	if c.Dir == "" {
		c.Dir = v.run.dir
	} else if !filepath.IsAbs(c.Dir) {
		return nil, fmt.Errorf("%q is no absolute path", c.Dir)
	}
	if len(c.Argv) == 0 {
		c.Argv = Shell
	}
	return v.guest.Start(ctx, c)
}

// End makes the run end.
func (v *VM) End() { v.run.end() }
