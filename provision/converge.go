package provision

import (
	"context"
	"errors"
	"fmt"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/clones"
	"aivm.dev/aivm/provision/folders"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/session"
	"aivm.dev/aivm/provision/target"
)

// Converge runs the loop for w: the host, then the guest, then what is
// recorded. It returns the facts of the last look, with the connection to the
// guest open if w asked for it. A dry run prints the plan and returns ErrDry.
func (e *Env) Converge(ctx context.Context, w *target.Target) (*loop.Facts, error) {
	unlock := func() {}
	defer func() { unlock() }()
	locked := false
	if w.NewVM || w.NewFolder {
		// What cannot be recorded at the end is not begun.
		if err := config.CheckWritable(e.StorePath); err != nil {
			return nil, err
		}
	}
	for round := 0; ; round++ {
		if round == session.MaxRounds {
			return nil, ui.Failed("the host keeps changing under aivm, %d looks were not enough", session.MaxRounds).Hint("try again: " + e.Rerun)
		}
		f, err := e.Observe(ctx, w)
		if errors.Is(err, context.Canceled) {
			return nil, e.Resume(err)
		}
		var p plan.Plan
		if err == nil {
			p, err = e.planHost(ctx, w, f)
		}
		if errors.Is(err, plan.ErrStale) {
			f.Close()
			continue
		}
		if err != nil {
			f.Close()
			if !locked && !e.DryRun && e.LockHeld(w.Name) {
				// Half of what was seen may be from before another run's work,
				// half from after it: it is waited for, and looked at again.
				if unlock, err = e.AwaitOther(ctx, w); err != nil {
					return nil, err
				}
				locked = true
				e.ForgetHost()
				continue
			}
			if !locked && !e.DryRun && !w.NewVM {
				// Or that run has ended by now.
				if rerr := e.Refresh(w); rerr != nil {
					return nil, rerr
				}
			}
			return nil, err
		}
		if e.DryRun {
			f.Close()
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
			f.Close()
			return nil, plan.NoTerminal([]string{why}, e.Rerun)
		}
		if asked && e.UI.InTTY {
			unlock()
			unlock, locked = func() {}, false
		}
		if err := e.Approval.Consent(ctx, e.UI, p, e.later(w), e.Rerun); err != nil {
			f.Close()
			return nil, err
		}
		if !p.Empty() && !locked {
			// Something is to be changed: one run at a time per VM. Whoever had
			// to wait, for a lock or a person, looks again, and so does who
			// wants to make a VM: another run may have made it since the first
			// look.
			release, waited, err := e.Lock(ctx, w.Name)
			if err != nil {
				f.Close()
				return nil, err
			}
			unlock, locked = release, true
			if waited || asked || f.NewDomain() {
				e.Park(w, f)
				if err := e.Refresh(w); err != nil {
					return nil, err
				}
				continue
			}
		}
		again, err := e.Run(ctx, p)
		if err != nil {
			e.letGo(ctx, w, f, locked)
			f.Close()
			return nil, e.Resume(err)
		}
		if again {
			f.Close()
			e.ForgetHost()
			continue
		}
		if w.Guest && f.Conn == nil && (w.Boot || f.Running()) {
			if err := e.wait(ctx, w, f); err != nil {
				e.letGo(ctx, w, f, locked)
				return nil, err
			}
		}
		if !p.Empty() {
			// libvirt's part of the facts is from before the plan ran.
			e.ObserveLibvirt(ctx, w, f)
		}
		err = e.GuestStage(ctx, w, f)
		if err == nil {
			err = clones.For(e.Loop).End(w)
		}
		if err != nil {
			e.letGo(ctx, w, f, locked)
			f.Close()
			return nil, e.Resume(e.ExplainLost(ctx, w.Name, err))
		}
		return f, nil
	}
}

// GuestStage plans and applies what is missing in the guest, then records.
func (e *Env) GuestStage(ctx context.Context, w *target.Target, f *loop.Facts) error {
	if f.Conn != nil {
		g, err := e.planGuest(w, f)
		if err != nil {
			return err
		}
		if _, err := e.Run(ctx, g); err != nil {
			return err
		}
	}
	folders.For(e.Loop).CheckProtected(ctx, w, f)
	_, err := e.Run(ctx, e.planFinish(ctx, w, f))
	return err
}

// surelyAsks says what will need a yes that was not given, whatever libvirt
// says; "" if nothing will for sure.
func (e *Env) surelyAsks(w *target.Target) string {
	switch {
	case e.Approval.Yes:
	case w.NewVM:
		return "make the VM " + w.Name
	case w.NewFolder && w.Folder != nil && (!e.Approval.YesSudo || w.Git != nil):
		return fmt.Sprintf("share folder %s with VM %s", w.Folder.HostPath, w.Name)
	}
	return ""
}

// later names the guest's part in the question about the host's.
func (e *Env) later(w *target.Target) []string {
	var out []string
	if w.NewFolder && w.Git != nil {
		out = append(out, fmt.Sprintf("make a clone of %s at %s and push branch %s to it", w.Folder.HostPath, w.Folder.GuestDst, w.Git.Host.Value.Branch))
	} else if w.NewFolder && w.Folder != nil {
		out = append(out, fmt.Sprintf("mount %s (%s), readable%s for everything that runs there", w.Folder.GuestDst, w.Folder.Mode,
			map[bool]string{true: " and writable"}[w.Folder.Access == "rw"]))
	}
	if w.Settings != nil {
		out = append(out, "bring your settings: "+session.Few(w.Settings.Wanted.Paths))
	}
	return out
}
