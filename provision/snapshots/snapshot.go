package snapshots

import (
	"context"
	"errors"
	"fmt"
	"os"

	"aivm.dev/aivm/provision/loop"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/domain"
	"aivm.dev/aivm/provision/target"
)

// SnapshotOptions are the flags of the snapshot verbs.
type SnapshotOptions struct {
	VM      string
	Name    string // of the snapshot
	StayOff bool   // do not restart a VM that was stopped for the verb
	// StartsAfter: the caller starts the VM itself, which the plan that is shown then says.
	StartsAfter bool
}

// SnapshotResult is what the verbs that change snapshots print with --json.
type SnapshotResult struct {
	Schema   int      `json:"schema"`
	VM       string   `json:"vm"`
	Snapshot string   `json:"snapshot"`
	Kept     string   `json:"kept,omitempty"` // the snapshot that a rollback made of the present disk
	State    string   `json:"state"`
	NotInIt  []string `json:"not_in_it"`

	Changed bool `json:"-"` // the disk was changed
}

// Snapshot takes a snapshot of a VM's disk. A running VM is stopped for it, with the user's
// consent, and started again.
func (e Part) Snapshot(ctx context.Context, o SnapshotOptions) (SnapshotResult, error) {
	if o.Name != "" {
		if err := domain.CheckSnapshotName(o.Name); err != nil {
			return SnapshotResult{}, err
		}
	}
	name := o.Name
	r, err := e.OnDisk(ctx, o, func(d *virt.Domain, f *domain.SnapFacts) ([]plan.Action, error) {
		if name == "" {
			name = f.NewName("snap-", e.Now())
		}
		return domain.PlanSnapshot(d, f, name, e.Snapshots(ctx))
	})
	if err != nil {
		return SnapshotResult{}, err
	}
	return e.result(r, o, name, ""), nil
}

// Rollback returns the disk of a VM to a snapshot. It takes a snapshot of the present disk first.
func (e Part) Rollback(ctx context.Context, o SnapshotOptions) (SnapshotResult, error) {
	saveAs, saved := "", false
	r, err := e.OnDisk(ctx, o, func(d *virt.Domain, f *domain.SnapFacts) ([]plan.Action, error) {
		if saveAs == "" {
			saveAs = f.NewName(domain.BeforeRollback, e.Now())
		}
		as, err := domain.PlanRollback(d, f, o.Name, saveAs, func() { saved = true }, e.Snapshots(ctx))
		if len(as) > 0 && e.hasBrowserAddress(d.Name) {
			as = append(e.planForgetBrowserAddress(d.Name), as...)
		}
		return as, err
	})
	if err != nil {
		return SnapshotResult{}, err
	}
	if !r.changed || !saved {
		saveAs = ""
	}
	return e.result(r, o, o.Name, saveAs), nil
}

// SnapshotDelete deletes a snapshot.
func (e Part) SnapshotDelete(ctx context.Context, o SnapshotOptions) (SnapshotResult, error) {
	r, err := e.OnDisk(ctx, o, func(d *virt.Domain, f *domain.SnapFacts) ([]plan.Action, error) {
		return domain.PlanDeleteSnapshot(d, f, o.Name, e.Snapshots(ctx))
	})
	if err != nil {
		return SnapshotResult{}, err
	}
	return e.result(r, o, o.Name, ""), nil
}

// Snapshots returns a function that connects to libvirt when an action runs.
func (e Part) Snapshots(ctx context.Context) func() (domain.Snapshots, error) {
	return func() (domain.Snapshots, error) { return e.Libvirt(ctx) }
}

// diskRun is the result of OnDisk.
type diskRun struct {
	W           *target.Target
	stateBefore virt.State
	changed     bool
}

// OnDisk stops the VM if it runs, applies the actions that do plans for its disk, and starts the VM
// again. The plan is shown and needs consent as usual; do is called again under the lock.
func (e Part) OnDisk(ctx context.Context, o SnapshotOptions, do func(*virt.Domain, *domain.SnapFacts) ([]plan.Action, error)) (*diskRun, error) {
	if e.Timing == nil {
		e.Timing = ui.NewTiming("define", "boot", "ssh")
	}
	r := &diskRun{}
	begun := false
	var err error
	r.changed, err = e.RunJob(ctx, loop.Job{
		VM: func() string { return o.VM },
		Plan: func(ctx context.Context) (p plan.Plan, err error) {
			w, d, err := e.findDisk(ctx, o.VM, func(_ *target.Target, d *virt.Domain) error {
				f, err := e.ObserveSnapshots(ctx, d)
				if err != nil {
					return err
				}
				as, err := do(d, f)
				p = e.PlanOnDisk(ctx, d, e.OpenSessions(d.Name), as)
				return err
			})
			if w != nil {
				o.VM, r.W = w.Name, w
			}
			if err == nil && !begun {
				// Another run may have started or stopped the VM since the last observation.
				r.stateBefore = d.State
			}
			return p, err
		},
		Follow: func() []plan.Action {
			if r.stateBefore == virt.Off || o.StayOff && !o.StartsAfter {
				return nil
			}
			return loop.StartAgain(r.W)
		},
		Refresh: func() error {
			if r.W == nil {
				return nil
			}
			_, err := e.Refresh(r.W)
			return err
		},
		Applied: func(plan.Plan, bool) { begun = true },
	})
	if err != nil {
		return nil, err
	}
	if !r.changed || r.stateBefore == virt.Off || o.StayOff {
		return r, nil
	}
	// The VM ran before: start it again, with its folders.
	w, err := target.Recorded(r.W.Store, r.W.Name)
	if err != nil {
		return nil, err
	}
	_, f, err := e.Converge(ctx, w.Started())
	if err != nil {
		return nil, fmt.Errorf("the disk was changed, but starting VM %q again failed: %w", w.Name, err)
	}
	f.Close()
	return r, nil
}

// findDisk finds a VM and calls do to read its disk. If the domain disappears during that, it reads
// the config again and tries once more.
func (e Part) findDisk(ctx context.Context, name string, do func(*target.Target, *virt.Domain) error) (w *target.Target, d *virt.Domain, err error) {
	for range 2 {
		if w, d, err = e.requireDomain(ctx, name); err == nil {
			err = do(w, d)
		}
		if err == nil || w == nil {
			break
		}
		if _, rerr := e.Refresh(w); rerr != nil {
			return w, nil, rerr
		}
		if name = w.Name; !errors.Is(err, virt.ErrNotFound) {
			break
		}
	}
	return w, d, err
}

// requireDomain is OwnVM for a VM that must exist in libvirt.
func (e Part) requireDomain(ctx context.Context, name string) (*target.Target, *virt.Domain, error) {
	w, d, err := e.OwnVM(ctx, name)
	if err == nil && d == nil {
		err = ui.Refused("VM %q does not exist in libvirt, so it has no disk", w.Name).Hint(ui.Cmd("aivm vm up " + w.Name))
	}
	return w, d, err
}

// ObserveSnapshots reads the snapshots of a VM.
func (e Part) ObserveSnapshots(ctx context.Context, d *virt.Domain) (*domain.SnapFacts, error) {
	l, err := e.Libvirt(ctx)
	if err != nil {
		return nil, err
	}
	f, err := domain.ObserveSnapshots(ctx, l, d, false)
	if err != nil {
		return nil, err
	}
	if d.State != virt.Off {
		f.Changed = true // QEMU may not have written everything yet
	}
	return f, nil
}

// PlanOnDisk returns the plan with the actions as, for the disk of d, after a stop of the VM if it
// runs, which ends sessions.
func (e Part) PlanOnDisk(ctx context.Context, d *virt.Domain, sessions []string, as []plan.Action) plan.Plan {
	p := plan.Plan{Stage: plan.Host}
	if len(as) == 0 {
		return p
	}
	stop := domain.PlanStop(d, false, e.Domains(ctx))
	for i := range stop {
		stop[i].Consent = plan.Ask
		stop[i].Why += ", since a snapshot or rollback needs a disk that is not in use"
	}
	p.Add(domain.EndsSessions(stop, sessions)...)
	p.Add(as...)
	return p
}

// NotInIt lists what a snapshot of the disk does not include.
func (e Part) NotInIt(w *target.Target) []string {
	out := []string{"the VM's CPUs, memory and devices"}
	for _, a := range w.Store.Config.VMAttachments(w.Name) {
		if a.Mode != "git" {
			out = append(out, "the shared folder "+a.HostPath)
		}
	}
	return out
}

func (e Part) result(r *diskRun, o SnapshotOptions, name, kept string) SnapshotResult {
	res := SnapshotResult{Schema: 1, VM: r.W.Name, Snapshot: name, Kept: kept, State: string(r.stateBefore), NotInIt: e.NotInIt(r.W), Changed: r.changed}
	if r.stateBefore != virt.Off && r.changed && o.StayOff {
		res.State = string(virt.Off)
	} else if r.stateBefore == virt.Paused && r.changed {
		res.State = string(virt.Running)
	}
	return res
}

// hasBrowserAddress reports whether a browser has opened the VM's editor at an address that is
// recorded.
func (e Part) hasBrowserAddress(vm string) bool {
	_, err := os.Lstat(e.State().BrowserPath(vm))
	return err == nil
}

// planForgetBrowserAddress plans to remove the record of the editor's address, so that the editor
// gets another one.
func (e Part) planForgetBrowserAddress(vm string) []plan.Action {
	path := e.State().BrowserPath(vm)
	return []plan.Action{{
		ID: "browser.forget", Why: "give the VM's editor another browser address, since the browser has data of the present disk for the old one",
		Shows: []string{"rm " + path},
		Do: func(context.Context) error {
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
			return nil
		},
	}}
}
