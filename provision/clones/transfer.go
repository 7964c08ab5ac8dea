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

// The git commands need only that the VM's guest is reachable, behind its firewall, and reports the
// state of its clone. Everything else of the VM is converged only if the VM has to be started.

// observeGit observes the host, and the guest if it answers, without changing anything.
func (e Part) observeGit(ctx context.Context, o Options) (*target.Target, *loop.Facts, error) {
	e.Timing = ui.NewTiming("ssh")
	w, err := e.cloneTarget(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	f, err := e.observe(ctx, w, loop.NewProgress(w))
	return w, f, err
}

// observe reads the state of the clone and the repository, and not of folders shared with the
// guest.
func (e Part) observe(ctx context.Context, w *target.Target, before loop.Progress) (*loop.Facts, error) {
	f, err := e.Observe(ctx, w.WithoutFolders(), before)
	if errors.Is(err, context.Canceled) {
		err = e.WithRerunHint(err)
	}
	return f, err
}

// moveGit pushes or fetches commits between the repository and its clone.
func (e Part) transferGit(ctx context.Context, o Options, push, fetch bool) (*target.Target, *loop.Facts, error) {
	e.Timing = ui.NewTiming("boot", "share", "ssh")
	w, err := e.cloneTarget(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	c := *w.Clone
	c.Push, c.Fetch = push, fetch
	w = w.WithClone(c)
	before := loop.NewProgress(w)
	f, err := e.observe(ctx, w, before)
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
				if f, err = e.observe(ctx, w, before); err != nil {
					return p, err
				}
			}
			first = false
			if f.Conn == nil {
				return p, ui.Failed("VM %s no longer answers: %w", w.Name, f.ConnErr).Hint(ui.CmdFor("try again", e.Rerun))
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
		Dry:        func(p plan.Plan) error { return e.dryTransfer(w, f, p) },
		Refresh:    func() (err error) { w, err = e.Refresh(w); return err },
		KeepConn:   func() { e.Park(w, f) },
		CloseFacts: func() { f.Close() },
		Failed: func(_ context.Context, _ plan.Plan, _ bool, err error) error {
			f.Close()
			return e.WithRerunHint(err)
		},
		Then: func(ctx context.Context, _, _ bool) error {
			err := e.transfer(ctx, w, f)
			if err != nil {
				f.Close()
				return e.WithRerunHint(e.ExplainLost(ctx, w.Name, err))
			}
			return nil
		},
	})
	return w, f, err
}

// move executes the guest's part of the plan and reports what prevented it.
func (e Part) transfer(ctx context.Context, w *target.Target, f *loop.Facts) error {
	as, err := e.PlanGuest(w, f)
	if err != nil {
		return err
	}
	if _, err := e.Run(ctx, plan.Plan{Stage: plan.Guest, Actions: as}); err != nil {
		return err
	}
	return e.End(w, f)
}

// start starts the VM with its folders, and observes the clone.
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
	return e.observe(ctx, w, before)
}

func (e Part) dryTransfer(w *target.Target, f *loop.Facts, p plan.Plan) error {
	g := plan.Plan{Stage: plan.Guest}
	if as, err := e.PlanGuest(w, f); err == nil {
		g.Add(as...)
	}
	d := e.Dry(e.Verb, w.Name, p)
	d.Folder, d.GuestDst, d.Guest, d.Stages = w.Folder.HostPath, w.OpenAt, g, plan.Describe(p, g)
	return d
}
