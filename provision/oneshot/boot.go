package oneshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"aivm.dev/aivm/internal/guestd"
	"aivm.dev/aivm/internal/qemu"
	"aivm.dev/aivm/internal/template"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/userfs"
	"aivm.dev/aivm/provision/oneshot/terminal"
)

// Boot starts VMs from one template.
type Boot interface {
	Template() string
	// Resumable reports whether the template's saved state can be used; why says why not.
	Resumable() (ok bool, why string)
	// Resume continues the saved state and Cold boots the template's disk. When they return, the guest
	// runs. link is QEMU's end of the network card's socket, which they close; nil: the VM has no card.
	Resume(ctx context.Context, link *os.File) (Machine, error)
	Cold(ctx context.Context, link *os.File) (Machine, error)
}

// Machine is a VM whose guest runs.
type Machine interface {
	Folders() *os.File // this process's end of the port for folders
	// Connect waits for the agent until ctx ends, or less where it should answer at once.
	Connect(ctx context.Context) (Guest, error)
	Kill() // returns when the VM has ended
	Done() <-chan struct{}
	Words() string // what QEMU reported when it ended
	Steps() []template.Step
}

// Guest is the agent in the VM.
type Guest interface {
	Setup(ctx context.Context, s guestd.Setup) error
	Start(ctx context.Context, c guestd.Command) (terminal.Process, error)
	Flush(ctx context.Context) error // ends all commands and writes the folders
	Close() error
}

// FolderServer serves the folders of a run.
type FolderServer interface {
	// Written returns the host-executed files that the guest changed; cut: there are more.
	Written() (files []userfs.Written, cut bool)
	Close() error
}

// Children starts the other processes of a run. Each takes the file over.
type Children struct {
	Folders func(ctx context.Context, folders []Folder, relay *os.File) (FolderServer, error)
	Network func(ctx context.Context, link *os.File, debug io.Writer) (Stack, error)
}

// Stack is the network process.
type Stack interface {
	Setup() *guestd.Network
	Close() error
}

// The times a guest has to answer.
const (
	resumeAnswers = 10 * time.Second
	bootAnswers   = 4 * time.Minute // without hardware acceleration, on a busy machine
)

// children are the processes and connections of one attempt.
type children struct {
	machine Machine
	guest   Guest
	folders FolderServer
	stack   Stack
}

// close ends the VM first, then what served it.
func (c *children) close() {
	if c.guest != nil {
		_ = c.guest.Close()
	}
	if c.machine != nil {
		c.machine.Kill()
	}
	if c.folders != nil {
		_ = c.folders.Close()
	}
	if c.stack != nil {
		_ = c.stack.Close()
	}
	*c = children{}
}

// notResumed is the error of a saved state that does not work; a boot may.
type notResumed struct{ err error }

func (e notResumed) Error() string { return e.err.Error() }
func (e notResumed) Unwrap() error { return e.err }

// bootVM starts the VM and connects to its agent. If the saved state cannot be used or the guest does not
// answer, the attempt is discarded and the VM is booted.
func (u *run) bootVM(ctx context.Context, b Boot) error {
	resumable, why := b.Resumable()
	if resumable {
		err := u.attempt(ctx, b.Resume, resumeAnswers)
		var stale notResumed
		if !errors.As(err, &stale) || ctx.Err() != nil {
			return err
		}
		u.endChildren()
		why = "its saved state does not work here: " + ui.CleanTo(err.Error(), 300)
	}
	u.UI.Warn("template %s: %s; the VM is booted instead, which takes longer", b.Template(), why)
	return u.attempt(ctx, b.Cold, bootAnswers)
}

// attempt starts the VM and the network while it checks the folders. Then it connects to the agent while
// the server of the folders starts.
func (u *run) attempt(ctx context.Context, start func(context.Context, *os.File) (Machine, error), answers time.Duration) error {
	var link, own *os.File
	if u.options.Net == NetOpen {
		var err error
		if link, own, err = qemu.FilePair("net"); err != nil {
			return ui.Failed("making a socket: %w", err)
		}
	}
	var vmErr, stackErr, refused error
	var wg sync.WaitGroup
	wg.Go(func() {
		defer u.timings.Step("start the VM")()
		ctx, cancel := context.WithTimeout(ctx, answers)
		defer cancel()
		u.child.machine, vmErr = start(ctx, link)
	})
	if own != nil {
		wg.Go(func() {
			defer u.timings.Step("start the network")()
			u.child.stack, stackErr = u.Children.Network(ctx, own, u.debug())
		})
	}
	wg.Go(func() {
		defer u.timings.Step("check the folders")()
		refused = u.refuse()
	})
	wg.Wait()
	switch {
	case refused != nil:
		return refused
	case stackErr != nil:
		return ui.Failed("starting the network: %w", stackErr)
	case vmErr != nil:
		return u.failed(answers, fmt.Errorf("starting the VM: %w", vmErr))
	}
	u.timings.Add(u.child.machine.Steps())
	return u.connect(ctx, answers)
}

// connect connects to the agent while the server of the folders starts.
func (u *run) connect(ctx context.Context, answers time.Duration) error {
	var foldersErr, connectErr error
	var wg sync.WaitGroup
	if len(u.folders) > 0 {
		wg.Go(func() {
			defer u.timings.Step("start the server of the folders")()
			u.child.folders, foldersErr = u.Children.Folders(ctx, u.folders, u.child.machine.Folders())
		})
	}
	wg.Go(func() {
		defer u.timings.Step("wait for the guest")()
		ctx, cancel := context.WithTimeout(ctx, answers)
		defer cancel()
		u.child.guest, connectErr = u.child.machine.Connect(ctx)
	})
	wg.Wait()
	switch {
	case foldersErr != nil:
		return foldersErr
	case connectErr != nil:
		return u.failed(answers, connectErr)
	}
	return nil
}

// failed marks the error of a resume as one that a boot may not have.
func (u *run) failed(answers time.Duration, err error) error {
	if answers == resumeAnswers {
		return notResumed{err}
	}
	return ui.Failed("%w", err)
}

// refuse returns why a folder is not given to a guest.
func (u *run) refuse() error {
	for _, f := range u.folders {
		if err := u.Refuse(f.Host, !f.ReadOnly, u.options.Sensitive); err != nil {
			return err
		}
	}
	return nil
}

// debug returns where the children report details; nil: nowhere.
func (u *run) debug() io.Writer {
	if u.options.Debug {
		return u.Err
	}
	return nil
}

// setup gives the guest its identity, its user, the folders and the network. A guest that has something
// else at the folder's path gets the folder at /workspace.
func (u *run) setup(ctx context.Context) error {
	s := guestd.Setup{
		Hostname: u.hostname(), UID: u.UID, GID: u.GID, User: "user", Home: GuestHome,
		Mounts: mounts(u.folders),
	}
	if u.child.stack != nil {
		s.Network = u.child.stack.Setup()
	}
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	err := u.child.guest.Setup(ctx, s)
	var conflict *guestd.ConflictError
	if errors.As(err, &conflict) && len(u.folders) > 0 && u.folders[0].current && u.folders[0].Guest == conflict.Path && conflict.Path != Workspace {
		f, note := u.folders[0].onlyWorkspace()
		u.folders[0], u.dir = f, f.Guest
		u.UI.Say("%s", note)
		s.Mounts = mounts(u.folders)
		err = u.child.guest.Setup(ctx, s)
	}
	if err != nil {
		return ui.Failed("setting the guest up: %w", err)
	}
	return nil
}

// endChildren ends the VM and what served it, and reports what the guest changed, however the run ends.
func (u *run) endChildren() {
	served := u.child.folders
	u.child.close()
	u.reportChanges(served)
}

// reportChanges names the files that programs of this machine run or obey and that the guest changed.
// The server has ended, so that its list is final.
func (u *run) reportChanges(served FolderServer) {
	if served == nil {
		return
	}
	written, cut := served.Written()
	if len(written) == 0 && !cut {
		return
	}
	var names []string
	for _, w := range written {
		switch {
		case w.Export < 0 || w.Export >= len(u.folders):
		case u.folders[w.Export].current:
			names = append(names, w.Path)
		default:
			names = append(names, filepath.Join(u.folders[w.Export].Host, w.Path))
		}
	}
	list := "their names are not known"
	if len(names) > 0 {
		list = ui.Some(names, 12)
		if cut {
			list += ", and further ones"
		}
	}
	u.UI.Warn("the run changed files that programs on this machine run or obey; review them before you use them: %s", list)
}

// ended reports whether a signal ends programs.
func ended(s os.Signal) (syscall.Signal, bool) {
	n, ok := s.(syscall.Signal)
	return n, ok && n != syscall.SIGWINCH && n != syscall.SIGCONT && n != syscall.SIGPIPE
}
