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

// Run prints a plan's notes and applies the plan, with progress, timing and fault points. It
// returns true if an action asked for another observation.
func (e *Session) Run(ctx context.Context, p plan.Plan) (bool, error) {
	e.PrintNotes(p)
	// Several actions that are shown as one have one progress line.
	var task ui.Task
	next, remaining := 0, 0
	needed := false // one of the actions of the line had something to do
	r := plan.Runner{Root: e.Root, Hook: e.Hook, Note: func(_ plan.Action, note string) { e.WarnOnce(note) }, Started: func(a plan.Action) (func(string, float64), func(error)) {
		stop := func() {}
		if a.Timing != "" {
			stop = e.Timing.Start(a.Timing)
		}
		if remaining == 0 {
			remaining = p.Row(next)
			task, needed = e.UI.Task(p.RowWhy(next, remaining)), false
		}
		next, remaining = next+1, remaining-1
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
			unneeded := errors.Is(err, plan.ErrUnneeded)
			needed = needed || !unneeded
			var ue *ui.Error
			switch {
			// ErrStale is no failure: another process was quicker.
			case err == nil, unneeded, errors.Is(err, plan.ErrStale):
				if remaining == 0 && !needed {
					task.Skip()
				} else if remaining == 0 {
					task.Done()
				}
				return
			case errors.As(err, &ue) && ue.Kind == "refused":
				task.Refuse()
			default:
				task.Fail()
			}
			remaining = 0
		}
	}}
	again, err := r.Run(ctx, p)
	if remaining > 0 { // it was interrupted between two of them, or is to be planned again
		task.Fail()
	}
	return again, err
}

// Lock takes the VM's lock; waited: another run held it. The config is read again after that,
// since another run may have written it.
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

// LockHeld reports whether a run holds the VM's lock now.
func (e *Session) LockHeld(vm string) bool { return lockfile.Held(e.State().LockPath(vm)) }

// DropLock removes the lock file of a deleted VM, while this run holds the lock.
func (e *Session) DropLock(vm string) { _ = os.Remove(e.State().LockPath(vm)) }

// PlanHostTools plans what this machine lacks. If this run installed packages and their programs
// are still not found, it returns an error instead of installing them again and again.
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

// CheckInstalled returns an error if packages that this run installed did not provide the
// programs that were missing.
func (e *Session) CheckInstalled(f host.Facts, need host.Need) error {
	tools, packages := host.Missing(f, need)
	if len(packages) == 0 || !slices.Equal(packages, e.installed) {
		return nil
	}
	return ui.Failed("packages were installed (%s), but these programs are still not found: %s", strings.Join(packages, " "), strings.Join(tools, ", ")).
		Hint(ui.Remark("check where their files are, or reinstall them: "+strings.Join(packages, " ")), ui.Cmd("aivm host doctor -v"))
}
