package provision

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/lockfile"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
)

// maxRounds bounds how often facts may change under us before we say so.
const maxRounds = 12

// converge runs the loop for w: the host, then the guest, then what is
// recorded. It returns the facts of the last look, with the connection to the
// guest open if w asked for it. A dry run prints the plan and returns errDry.
func (e *Env) converge(ctx context.Context, w *want) (*facts, error) {
	unlock := func() {}
	defer func() { unlock() }()
	locked := false
	if w.newVM || w.newFolder {
		// What cannot be recorded at the end is not begun.
		if err := config.CheckWritable(e.StorePath); err != nil {
			return nil, err
		}
	}
	for round := 0; ; round++ {
		if round == maxRounds {
			return nil, ui.Failed("the host keeps changing under aivm, %d looks were not enough", maxRounds).Hint("try again: " + e.Rerun)
		}
		f, err := e.observe(ctx, w)
		if errors.Is(err, context.Canceled) {
			return nil, e.resume(err)
		}
		var p plan.Plan
		if err == nil {
			p, err = e.planHost(ctx, w, f)
		}
		if errors.Is(err, plan.ErrStale) {
			f.close()
			continue
		}
		if err != nil {
			f.close()
			if !locked && !e.DryRun && e.lockHeld(w.name) {
				// Half of what was seen may be from before another run's work,
				// half from after it: it is waited for, and looked at again.
				if unlock, err = e.awaitOther(ctx, w); err != nil {
					return nil, err
				}
				locked = true
				e.forgetHost()
				continue
			}
			if !locked && !e.DryRun && !w.newVM {
				// Or that run has ended by now.
				if rerr := e.refresh(w); rerr != nil {
					return nil, rerr
				}
			}
			return nil, err
		}
		if e.DryRun {
			f.close()
			return f, e.printDry(w, f, p)
		}
		if e.UI.Verbose > 0 && !p.Empty() && !locked {
			e.UI.Say("%s", plan.Text(p, e.later(w)))
		}
		// Asked before the lock is taken: nobody waits for a person at a
		// prompt, and a no leaves nothing behind.
		asked := len(e.Approval.Open(p)) > 0
		if why := e.surelyAsks(w); why != "" && !asked && !p.Empty() && !e.UI.InTTY {
			// Nothing is started, and root not bothered, for a plan that is
			// refused all the same.
			f.close()
			return nil, plan.NoTerminal([]string{why}, e.Rerun)
		}
		if asked && e.UI.InTTY {
			unlock()
			unlock, locked = func() {}, false
		}
		if err := e.Approval.Consent(ctx, e.UI, p, e.later(w), e.Rerun); err != nil {
			f.close()
			return nil, err
		}
		if !p.Empty() && !locked {
			// Something is to be changed: one run at a time per VM. Whoever had
			// to wait, for a lock or a person, looks again, and so does who
			// wants to make a VM: another run may have made it since the first
			// look.
			release, waited, err := e.lock(ctx, w.name)
			if err != nil {
				f.close()
				return nil, err
			}
			unlock, locked = release, true
			if waited || asked || w.newDomain(f) {
				e.park(w, f)
				if err := e.refresh(w); err != nil {
					return nil, err
				}
				continue
			}
		}
		again, err := e.run(ctx, p)
		if err != nil {
			e.letGo(ctx, w, f, locked)
			f.close()
			return nil, e.resume(err)
		}
		if again {
			f.close()
			e.forgetHost()
			continue
		}
		if w.guest && f.conn == nil && (w.boot || f.running()) {
			if err := e.wait(ctx, w, f); err != nil {
				e.letGo(ctx, w, f, locked)
				return nil, err
			}
		}
		if !p.Empty() {
			// libvirt's part of the facts is from before the plan ran.
			e.observeLibvirt(ctx, w, f)
		}
		err = e.guestStage(ctx, w, f)
		if err == nil {
			err = e.endGit(w)
		}
		if err != nil {
			e.letGo(ctx, w, f, locked)
			f.close()
			return nil, e.resume(e.explainLost(ctx, w.name, err))
		}
		return f, nil
	}
}

// guestStage plans and applies what is missing in the guest, then records.
func (e *Env) guestStage(ctx context.Context, w *want, f *facts) error {
	if f.conn != nil {
		g, err := e.planGuest(w, f)
		if err != nil {
			return err
		}
		if _, err := e.run(ctx, g); err != nil {
			return err
		}
	}
	e.checkProtected(ctx, w, f)
	_, err := e.run(ctx, e.planFinish(ctx, w, f))
	return err
}

func (f *facts) close() {
	if f != nil && f.conn != nil {
		_ = f.conn.Close()
		f.conn = nil
	}
}

// run applies a plan with progress, timing and fault points.
func (e *Env) run(ctx context.Context, p plan.Plan) (bool, error) {
	r := plan.Runner{Root: e.Root, Hook: e.Hook, Note: func(_ plan.Action, note string) { e.warnOnce(note) }, Started: func(a plan.Action) (func(string, float64), func(error)) {
		stop := func() {}
		if a.Timing != "" {
			stop = e.timing.Start(a.Timing)
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

// surelyAsks says what will need a yes that was not given, whatever libvirt
// says; "" if nothing will for sure.
func (e *Env) surelyAsks(w *want) string {
	switch {
	case e.Approval.Yes:
	case w.newVM:
		return "make the VM " + w.name
	case w.newFolder && w.folder != nil && (!e.Approval.YesSudo || w.git != nil):
		return fmt.Sprintf("share folder %s with VM %s", w.folder.HostPath, w.name)
	}
	return ""
}

// later names the guest's part in the question about the host's.
func (e *Env) later(w *want) []string {
	var out []string
	if w.newFolder && w.git != nil {
		out = append(out, fmt.Sprintf("make a clone of %s at %s and push branch %s to it", w.folder.HostPath, w.folder.GuestDst, w.git.host.Value.Branch))
	} else if w.newFolder && w.folder != nil {
		out = append(out, fmt.Sprintf("mount %s (%s), readable%s for everything that runs there", w.folder.GuestDst, w.folder.Mode,
			map[bool]string{true: " and writable"}[w.folder.Access == "rw"]))
	}
	if w.settings != nil {
		out = append(out, "bring your settings: "+few(w.settings.wanted.Paths))
	}
	return out
}

// lock takes the VM's lock; waited says that somebody else held it. The store is
// read again after it: another run may have written it since.
func (e *Env) lock(ctx context.Context, vm string) (release func(), waited bool, err error) {
	path := e.state().LockPath(vm)
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
		err = ui.Failed("locking VM %q: %w", vm, err).Hint("ls -ld "+shellQuote(dir), "df -h "+shellQuote(dir))
	}
	e.store = nil
	return release, waited, err
}

// awaitOther waits until no other run changes the VM, takes the lock, and reads
// the store anew. release is never nil.
func (e *Env) awaitOther(ctx context.Context, w *want) (release func(), err error) {
	if release, _, err = e.lock(ctx, w.name); err != nil {
		return func() {}, e.resume(err)
	}
	if err = e.refresh(w); err != nil {
		release()
		return func() {}, err
	}
	return release, nil
}

// lockHeld reports whether another run changes the VM at this moment.
func (e *Env) lockHeld(vm string) bool { return lockfile.Held(e.state().LockPath(vm)) }

// dropLock removes the lock file of a VM that is gone, while it is held.
func (e *Env) dropLock(vm string) { _ = os.Remove(e.state().LockPath(vm)) }
