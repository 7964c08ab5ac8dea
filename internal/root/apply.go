package root

import (
	"context"
	"errors"
	"io"
	"sync"

	"aivm.dev/aivm/internal/root/exportroot"
	"aivm.dev/aivm/internal/root/hookinstall"
	"aivm.dev/aivm/internal/root/hostsetup"
	"aivm.dev/aivm/internal/root/imagebuild"
	"aivm.dev/aivm/internal/root/manifest"
	"aivm.dev/aivm/internal/root/nftload"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/ui"
)

// An Applier executes privileged actions.
type Applier interface {
	// Do runs one action to its end. progress may be nil.
	Do(ctx context.Context, op record.Op, progress record.Progress) (record.Result, error)
	// Close ends the helper process, if one was started.
	Close() error
}

// Options configure how New obtains root's rights.
type Options struct {
	Euid           int
	Self           []string // argv prefix that starts this program: the helper is SELF root-apply
	NonInteractive bool     // no terminal: sudo must not ask
	Stderr         io.Writer
	Builders       map[string]record.BuildFunc // by BuildImage.Distro; used in the process that runs the action
}

// Command is the hidden verb of the helper; it calls Serve.
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

func (l *local) Do(ctx context.Context, op record.Op, progress record.Progress) (record.Result, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.exec.run(ctx, op, progress)
}

func (l *local) Close() error { return nil }

// executor runs actions, in the helper and in a process that is root already.
type executor struct {
	caller   int // see record.Check
	builders map[string]record.BuildFunc
}

func (e executor) run(ctx context.Context, op record.Op, progress record.Progress) (record.Result, error) {
	if progress == nil {
		progress = func(string, float64) {}
	}
	if op == nil {
		return record.Result{}, errors.New("no action given")
	}
	if err := record.Check(op, e.caller); err != nil {
		return record.Result{}, err
	}
	if err := ctx.Err(); err != nil {
		return record.Result{}, err
	}
	switch o := op.(type) {
	case record.Export:
		if err := exportroot.Make(o); err != nil {
			return record.Result{}, err
		}
		return record.Result{}, manifest.UpdateFolders(o.VMKey, func(fs []record.Bind) []record.Bind { return fs })
	case record.Unexport:
		return record.Result{}, errors.Join(exportroot.ForgetVM(o.VMKey), exportroot.Remove(o))
	case record.Bind:
		note, err := exportroot.Bind(o)
		return record.Result{Note: note}, err
	case record.Unbind:
		return record.Result{}, exportroot.Unbind(o)
	case record.OldShares:
		return record.Result{}, exportroot.RemoveOldShares(o)
	case record.Packages:
		if o.Manager == "apt" {
			return record.Result{}, hostsetup.InstallApt(ctx, o, progress)
		}
		return record.Result{}, hostsetup.InstallWith(ctx, o, progress)
	case record.Service:
		return record.Result{}, hostsetup.StartService(ctx, o.Name, progress)
	case record.KVMDevice:
		return record.Result{}, hostsetup.OpenKVM()
	case record.KVMModule:
		return record.Result{}, hostsetup.LoadKVM(ctx, o)
	case record.Ruleset:
		return nftload.ListRuleset(ctx)
	case record.LibvirtSocket:
		f, err := hostsetup.DialSocket(ctx, o.Path)
		return record.Result{File: f}, err
	case record.BuildImage:
		return imagebuild.Build(ctx, e.builders[o.Distro], o, progress)
	case record.Hooks:
		if o.Remove {
			return record.Result{}, hookinstall.Remove()
		}
		return record.Result{}, hookinstall.Install(ctx, progress)
	case record.Nft:
		return record.Result{}, nftload.LoadWall(ctx, o, e.caller)
	}
	return record.Result{}, ui.Refused("the privileged helper has no action %q", op.Kind())
}
