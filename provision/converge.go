package provision

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/editor"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/provision/clones"
	"aivm.dev/aivm/provision/folders"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/machine"
	"aivm.dev/aivm/provision/session"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/target"
)

// Converge brings w's VM and folder to the state that w asks for: first on the host, then in the
// guest, then in the config. It returns the target as it is then and the facts of the last
// observation, with the connection to the guest open if w asked for it.
func (e *Env) Converge(ctx context.Context, w *target.Target) (*target.Target, *loop.Facts, error) {
	return e.converge(ctx, w, plan.Plan{})
}

// converge is Converge; a dry run shows the plan first before its own.
func (e *Env) converge(ctx context.Context, w *target.Target, first plan.Plan) (*target.Target, *loop.Facts, error) {
	if w.NewVM || w.NewFolder || w.NewProtect {
		// Do not begin what cannot be recorded at the end.
		if err := config.CheckWritable(e.StorePath); err != nil {
			return w, nil, err
		}
	}
	before := loop.NewProgress(w)
	var f *loop.Facts
	var last *planned
	_, err := e.RunJob(ctx, loop.Job{
		VM:           func() string { return w.Name },
		FactsCurrent: func() bool { return !f.NewDomain() }, // another run may have created the VM
		Plan: func(ctx context.Context) (p plan.Plan, err error) {
			if f != nil {
				before = f.Progress
			}
			if f, err = e.Observe(ctx, w, before); errors.Is(err, context.Canceled) {
				return p, e.WithRerunHint(err)
			}
			if err != nil {
				return p, err
			}
			e.observeForPlan(ctx, w, f)
			next, err := e.planHost(ctx, w, f, last)
			if taken := new(machine.TakenError); errors.As(err, &taken) {
				// The name is the default one: use the next.
				if w, err = e.FreeName(w.Renamed()); err == nil {
					err = plan.ErrStale
				}
			}
			f.Skip(next.skipped)
			if last, f.AliasPlanned = &next, next.writesAlias; errors.Is(err, plan.ErrStale) {
				last = nil // it was for another name
			}
			return next.Plan, err
		},
		Later:        func() []string { return e.laterSteps(w, f) },
		NeedsConsent: func() string { return e.certainConsent(w) },
		Dry:          func(p plan.Plan) error { return e.dry(w, f, first, p) },

		Refresh: func() (err error) { w, err = e.Refresh(w); return err },
		ExplainError: func() error {
			if w.NewVM {
				return nil
			}
			_, err := e.Refresh(w)
			return err
		},
		Applied: func(p plan.Plan, stale bool) {
			if !stale && w.NewVM && p.Has(machine.StoreVM) {
				w = w.AlreadyRecorded()
				if e.Verb == "create" {
					// The VM is recorded now; `vm create` would refuse it.
					e.Rerun = "aivm vm up " + w.Name
				}
			}
		},
		KeepConn:   func() { e.Park(w, f) },
		CloseFacts: func() { f.Close() },
		Failed: func(ctx context.Context, _ plan.Plan, locked bool, err error) error {
			e.withdrawFolder(ctx, w, f, locked)
			f.Close()
			return e.WithRerunHint(err)
		},
		Then: func(ctx context.Context, changed, locked bool) error {
			err := e.finishInGuest(ctx, w, f, changed)
			if err != nil {
				e.withdrawFolder(ctx, w, f, locked)
				f.Close()
			}
			return err
		},
	})
	if err != nil {
		return w, nil, err
	}
	return w, f, nil
}

// finishInGuest does the rest after the host's plan was applied: it waits for the guest if
// necessary, and runs GuestStage.
func (e *Env) finishInGuest(ctx context.Context, w *target.Target, f *loop.Facts, changed bool) error {
	if w.Guest && f.Conn == nil && (w.Boot || f.Running()) {
		if err := e.waitForGuest(ctx, w, f); err != nil {
			return err
		}
	}
	if changed {
		// The facts from libvirt are from before the plan ran.
		e.ObserveLibvirt(ctx, w, f)
	}
	e.WarnStartup(w, f.Conn)
	err := e.GuestStage(ctx, w, f)
	if err == nil {
		err = clones.For(e.Loop).End(w, f)
	}
	if err != nil {
		return e.WithRerunHint(e.ExplainLost(ctx, w.Name, err))
	}
	return nil
}

// GuestStage plans and applies what is missing in the guest, then records it in the config.
func (e *Env) GuestStage(ctx context.Context, w *target.Target, f *loop.Facts) error {
	if f.Conn != nil {
		folders.ObserveDaemons(w, f)
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

// certainConsent names a step that will need consent which was not given, whatever libvirt reports;
// "" if there is none.
func (e *Env) certainConsent(w *target.Target) string {
	switch {
	case e.Approval.Yes:
	case w.NewVM:
		return "create VM " + w.Name
	case w.NewFolder && w.Folder != nil && (!e.Approval.YesSudo || w.Clone != nil):
		return fmt.Sprintf("share folder %s with VM %s", w.Folder.HostPath, w.Name)
	}
	return ""
}

// laterSteps describes the steps in the guest, for the question about the host's plan.
func (e *Env) laterSteps(w *target.Target, f *loop.Facts) []string {
	var out []string
	if w.NewFolder && w.Clone != nil {
		out = append(out, fmt.Sprintf("clone %s to %s and push branch %s to it", w.Folder.HostPath, w.Folder.GuestDst, f.Clone.Host.Value.Branch))
	} else if w.NewFolder && w.Folder != nil {
		out = append(out, fmt.Sprintf("mount %s (%s), readable%s for every program in the VM", w.Folder.GuestDst, w.Folder.Mode,
			map[bool]string{true: " and writable"}[w.Folder.Access == "rw"]))
	}
	if f.StartsVM(w) && !w.NewVM {
		atts := slices.DeleteFunc(f.Atts(w), func(a share.Attachment) bool {
			return w.NewFolder && w.Folder != nil && a.HostPath == w.Folder.HostPath
		})
		if paths := loop.GuestPaths(atts); len(paths) > 0 {
			out = append(out, "mount its folders again: "+session.Few(paths))
		}
	}
	if w.Settings != nil {
		out = append(out, "copy your settings: "+session.Few(w.Settings.Wanted.Paths))
	}
	return out
}

// dry returns the DryRun of a verb about a VM or folder; first is a plan to show before p.
func (e *Env) dry(w *target.Target, f *loop.Facts, first, p plan.Plan) error {
	p.Actions = append(slices.Clone(first.Actions), p.Actions...)
	g := plan.Plan{Stage: plan.Guest}
	if f.Guest.Share.Mounts != nil || f.Guest.Boot.Installed {
		if p, err := e.planGuest(w, f); err == nil {
			g = p
		}
	} else {
		for _, s := range e.laterSteps(w, f) {
			g.Add(plan.Action{ID: "guest.mount", Why: s})
		}
	}
	d := &session.DryRun{
		Dry:  plan.Dry{Schema: 1, Verb: e.Verb, VM: w.Name, NeedsConsent: len(e.Approval.Open(p)) > 0, Stages: plan.Describe(p, g)},
		Host: p, Guest: g,
	}
	if w.Folder != nil {
		d.Folder, d.GuestDst = w.Folder.HostPath, w.OpenAt
		switch e.Verb {
		case "code":
			if r, err := editor.NewRecipe(w.Name, w.OpenAt, w.Record.VM.User); err == nil {
				d.Then = r.Command
			}
			name := "VS Code"
			if w.Editor != nil && w.Editor.Editor.ID != "code" {
				name = w.Editor.Editor.Name
				to := editor.Target{Alias: w.Name, Path: w.OpenAt, User: w.Record.VM.User}
				if args, err := editor.OpenArgs(*w.Editor, to); err == nil {
					d.Then = session.ShellLine(append([]string{w.Editor.Editor.Commands[0]}, args...))
				}
			}
			d.Last = "DRYRUN: would open " + w.OpenAt + " in " + name + " via host " + w.Name
			if w.Editor == nil {
				d.Last = "DRYRUN: would print how to open " + w.OpenAt + " via host " + w.Name + "; no editor is started"
			}
		case "ssh":
			d.Then = "ssh -t " + w.Name
			d.Last = "DRYRUN: would open a shell in " + w.OpenAt + " via host " + w.Name
		}
	}
	return d
}
