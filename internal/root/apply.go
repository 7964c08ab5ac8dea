package root

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"

	"aivm.dev/aivm/internal/ui"
)

// A Result is what an action leaves behind for its caller.
type Result struct {
	File *os.File // an open descriptor passed back, or nil; the caller closes it
	Note string   // what a person should know although it worked, or ""
}

// Progress is told what an action is doing now. fraction is 0 to 1, or less
// than 0 when it is not known.
type Progress = func(line string, fraction float64)

// A BuildFunc makes a bootable image inside dir (an empty directory of root's)
// and returns the path of the finished file in it. It leaves nothing mounted
// below dir, also when ctx ends.
type BuildFunc func(ctx context.Context, dir string, progress Progress) (path string, err error)

// An Applier executes privileged actions.
type Applier interface {
	// Do runs one action to its end. progress may be nil.
	Do(ctx context.Context, op Op, progress Progress) (Result, error)
	// Close ends the helper process, if one was started.
	Close() error
}

// Options say how root's rights are reached.
type Options struct {
	Euid           int
	Self           []string // argv prefix that starts this program: the helper is SELF root-apply
	NonInteractive bool     // no terminal: sudo must not ask
	Stderr         io.Writer
	Builders       map[string]BuildFunc // by BuildImage.Distro; used where the action really runs
}

// Command is the hidden verb that becomes the helper; it calls Serve.
const Command = "root-apply"

// New returns an Applier. As root it executes in this process; otherwise it
// starts one "sudo -- SELF root-apply" at the first Do and keeps it until
// Close, so that a run asks for a password at most once.
func New(opts Options) Applier {
	if opts.Stderr == nil {
		opts.Stderr = io.Discard
	}
	if opts.Euid == 0 {
		return &local{exec: executor{caller: -1, builders: opts.Builders}}
	}
	return &client{opts: opts}
}

type local struct {
	mu   sync.Mutex
	exec executor
}

func (l *local) Do(ctx context.Context, op Op, progress Progress) (Result, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.exec.run(ctx, op, progress)
}

func (l *local) Close() error { return nil }

// executor is what runs actions, in the helper and in a root process alike.
type executor struct {
	caller   int // see validate
	builders map[string]BuildFunc
}

func (e executor) run(ctx context.Context, op Op, progress Progress) (Result, error) {
	if progress == nil {
		progress = func(string, float64) {}
	}
	if op == nil {
		return Result{}, errors.New("no action given")
	}
	if err := validate(op, e.caller); err != nil {
		return Result{}, err
	}
	if err := ctx.Err(); err != nil {
		return Result{}, err
	}
	switch o := op.(type) {
	case Export:
		if err := export(o); err != nil {
			return Result{}, err
		}
		return Result{}, noteFolders(o.VMKey, func(fs []Bind) []Bind { return fs })
	case Unexport:
		return Result{}, errors.Join(forgetVM(o.VMKey), unexport(o))
	case Bind:
		note, err := bindAndNote(o)
		return Result{Note: note}, err
	case Unbind:
		return Result{}, unbindAndForget(o)
	case OldShares:
		return Result{}, removeOldShares(o)
	case Packages:
		if o.Manager == "apt" {
			return Result{}, installPackages(ctx, o, progress)
		}
		return Result{}, installWith(ctx, o, progress)
	case Service:
		return Result{}, daemons[o.Name].start(ctx, progress)
	case KVMDevice:
		return Result{}, openKVM()
	case KVMModule:
		return Result{}, loadKVM(ctx, o)
	case Ruleset:
		return listRuleset(ctx)
	case LibvirtSocket:
		f, err := dialSocket(ctx, o.Path)
		return Result{File: f}, err
	case BuildImage:
		return buildImage(ctx, e.builders[o.Distro], o, progress)
	case Hooks:
		if o.Remove {
			return Result{}, removeHooks()
		}
		return Result{}, installHooks(ctx, progress)
	case Nft:
		return Result{}, putWall(ctx, o, e.caller)
	}
	return Result{}, ui.Refused("the privileged helper knows no action %q", op.Kind())
}
