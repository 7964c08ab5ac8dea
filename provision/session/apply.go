package session

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/internal/lockfile"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/host"
)

// Run says what is to be said about a plan and applies it, with progress, timing
// and fault points.
func (e *Session) Run(ctx context.Context, p plan.Plan) (bool, error) {
	e.PrintNotes(p)
	r := plan.Runner{Root: e.Root, Hook: e.Hook, Note: func(_ plan.Action, note string) { e.WarnOnce(note) }, Started: func(a plan.Action) (func(string, float64), func(error)) {
		stop := func() {}
		if a.Timing != "" {
			stop = e.Timing.Start(a.Timing)
		}
		task := e.UI.Task(a.Why)
		progress := func(detail string, fraction float64) {
			if detail != "" {
				task.Detail("%s", detail)
			}
			if fraction >= 0 {
				task.Fraction(fraction)
			}
		}
		return progress, func(err error) {
			stop()
			// Stale is no failure: somebody else was quicker.
			if err != nil && !errors.Is(err, plan.ErrStale) {
				task.Fail()
				return
			}
			task.Done()
		}
	}}
	return r.Run(ctx, p)
}

// Lock takes the VM's lock; waited says that somebody else held it. The store is
// read again after it: another run may have written it since.
func (e *Session) Lock(ctx context.Context, vm string) (release func(), waited bool, err error) {
	path := e.State().LockPath(vm)
	release, waited, err = lockfile.Lock(ctx, path, e.Rerun, func(holder string) func(error) {
		task := e.UI.Task("waiting for " + holder)
		return func(err error) {
			if err != nil {
				task.Fail()
				return
			}
			task.Done()
		}
	})
	if err != nil && ctx.Err() == nil {
		dir := filepath.Dir(path)
		err = ui.Failed("locking VM %q: %w", vm, err).Hint(ui.Cmd("ls -ld "+shellescape.Quote(dir)), ui.Cmd("df -h "+shellescape.Quote(dir)))
	}
	e.Reload()
	return release, waited, err
}

// LockHeld reports whether another run changes the VM at this moment.
func (e *Session) LockHeld(vm string) bool { return lockfile.Held(e.State().LockPath(vm)) }

// DropLock removes the lock file of a VM that is gone, while it is held.
func (e *Session) DropLock(vm string) { _ = os.Remove(e.State().LockPath(vm)) }

// PlanMachine is what this machine lacks, once: packages that were installed in
// this run and whose programs are still not found are not installed for ever.
func (e *Session) PlanHostTools(f host.Facts, need host.Need) ([]plan.Action, error) {
	if err := e.CheckInstalled(f, need); err != nil {
		return nil, err
	}
	as, err := host.Plan(f, need)
	for i := range as {
		if op, ok := as[i].Root.(root.Packages); ok {
			as[i].Got = func(context.Context, root.Result) error {
				e.installed = op.Names
				return nil
			}
		}
	}
	return as, err
}

// FoundNothing is the error for packages that are there and programs that are
// not.
func (e *Session) CheckInstalled(f host.Facts, need host.Need) error {
	tools, packages := host.Missing(f, need)
	if len(packages) == 0 || !slices.Equal(packages, e.installed) {
		return nil
	}
	return ui.Failed("installed is %s, and still not found: %s", strings.Join(packages, " "), strings.Join(tools, ", ")).
		Hint(ui.CmdFor("look where the files went, or install it anew by hand", strings.Join(packages, " ")), ui.Cmd("aivm host doctor -v"))
}
