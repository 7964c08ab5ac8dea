package clones

import (
	"context"
	"errors"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/session"
	"aivm.dev/aivm/provision/target"
)

// What the git verbs need of a VM: that its guest answers, behind its wall, and
// says what its clone has. Everything else of the VM is brought to its state only
// where it has to be started.

// lookGit observes without changing anything, the guest too if it answers.
func (e Part) lookGit(ctx context.Context, o Options) (*target.Target, *loop.Facts, error) {
	e.Timing = ui.NewTiming("ssh")
	w, err := e.wantClone(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	f, err := e.look(ctx, w, loop.NewProgress(w))
	return w, f, err
}

// look asks for the clone and the repository, and for nothing that is shared with
// the guest.
func (e Part) look(ctx context.Context, w *target.Target, before loop.Progress) (*loop.Facts, error) {
	f, err := e.Observe(ctx, w.WithoutFolders(), before)
	if errors.Is(err, context.Canceled) {
		err = e.WithRerunHint(err)
	}
	return f, err
}

// moveGit moves commits between the repository and its clone.
func (e Part) moveGit(ctx context.Context, o Options, push, fetch bool) (*target.Target, *loop.Facts, error) {
	e.Timing = ui.NewTiming("boot", "share", "ssh")
	w, err := e.wantClone(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	c := *w.Clone
	c.Push, c.Fetch = push, fetch
	w = w.WithClone(c)
	before := loop.NewProgress(w)
	f, err := e.look(ctx, w, before)
	if err != nil {
		return nil, nil, err
	}
	if f.Conn == nil {
		if f, err = e.start(ctx, w, f.Progress); err != nil {
			return nil, nil, err
		}
	}
	first := true
	_, err = e.RunJob(ctx, loop.Job{
		VM:           func() string { return w.Name },
		FactsCurrent: func() bool { return true },
		Plan: func(ctx context.Context) (p plan.Plan, err error) {
			p.Stage = plan.Host
			if !first {
				if f != nil {
					before = f.Progress
				}
				if f, err = e.look(ctx, w, before); err != nil {
					return p, err
				}
			}
			first = false
			if f.Conn == nil {
				return p, ui.Failed("VM %s does not answer any more: %w", w.Name, f.ConnErr).Hint(ui.CmdFor("try again", e.Rerun))
			}
			e.ObserveFirewall(ctx, w, f)
			rules, err := e.PlanFirewall(w, f)
			if p.Join(rules); err != nil {
				return p, err
			}
			as, err := e.PlanHost(w, f)
			p.Add(as...)
			return p, err
		},
		Dry:        func(p plan.Plan) error { return e.dryMove(w, f, p) },
		Refresh:    func() (err error) { w, err = e.Refresh(w); return err },
		KeepConn:   func() { e.Park(w, f) },
		CloseFacts: func() { f.Close() },
		Failed: func(_ context.Context, _ plan.Plan, _ bool, err error) error {
			f.Close()
			return e.WithRerunHint(err)
		},
		Then: func(ctx context.Context, _, _ bool) error {
			err := e.move(ctx, w, f)
			if err != nil {
				f.Close()
				return e.WithRerunHint(e.ExplainLost(ctx, w.Name, err))
			}
			return nil
		},
	})
	return w, f, err
}

// move does the guest's part and says what kept commits from moving.
func (e Part) move(ctx context.Context, w *target.Target, f *loop.Facts) error {
	as, err := e.PlanGuest(w, f)
	if err != nil {
		return err
	}
	if _, err := e.Run(ctx, plan.Plan{Stage: plan.Guest, Actions: as}); err != nil {
		return err
	}
	return e.End(w, f)
}

// start brings the VM up, with its folders, and asks it for the clone.
func (e Part) start(ctx context.Context, w *target.Target, before loop.Progress) (*loop.Facts, error) {
	vm, err := target.Recorded(w.Store, w.Name)
	if err != nil {
		return nil, err
	}
	_, up, err := e.Converge(ctx, vm.Started())
	var dry *session.DryRun
	if errors.As(err, &dry) {
		dry.Folder, dry.GuestDst = w.Folder.HostPath, w.OpenAt
	}
	if err != nil {
		return nil, err
	}
	e.Park(w, up)
	return e.look(ctx, w, before)
}

func (e Part) dryMove(w *target.Target, f *loop.Facts, p plan.Plan) error {
	g := plan.Plan{Stage: plan.Guest}
	if as, err := e.PlanGuest(w, f); err == nil {
		g.Add(as...)
	}
	d := e.Dry(e.Verb, w.Name, p)
	d.Folder, d.GuestDst, d.Guest, d.Stages = w.Folder.HostPath, w.OpenAt, g, plan.Describe(p, g)
	return d
}
