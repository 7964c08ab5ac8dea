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
	StayOff bool   // do not start a VM again that was stopped for it
}

// SnapshotResult is what the verbs that change snapshots print with --json.
type SnapshotResult struct {
	Schema   int      `json:"schema"`
	VM       string   `json:"vm"`
	Snapshot string   `json:"snapshot"`
	Kept     string   `json:"kept,omitempty"` // what a rollback kept of the present
	State    string   `json:"state"`
	NotInIt  []string `json:"not_in_it"`

	Changed bool `json:"-"` // the disk
}

// Snapshot keeps the disk of a VM under a name. A VM that runs is stopped for
// it, if that is agreed to, and started again.
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

// Rollback puts the disk of a VM back to a snapshot, and keeps the present
// first.
func (e Part) Rollback(ctx context.Context, o SnapshotOptions) (SnapshotResult, error) {
	keepAs, kept := "", false
	r, err := e.OnDisk(ctx, o, func(d *virt.Domain, f *domain.SnapFacts) ([]plan.Action, error) {
		if keepAs == "" {
			keepAs = f.NewName(domain.BeforeRollback, e.Now())
		}
		as, err := domain.PlanRollback(d, f, o.Name, keepAs, func() { kept = true }, e.Snapshots(ctx))
		if len(as) > 0 && e.knownToBrowser(d.Name) {
			as = append(e.planForgetBrowser(d.Name), as...)
		}
		return as, err
	})
	if err != nil {
		return SnapshotResult{}, err
	}
	if !r.changed || !kept {
		keepAs = ""
	}
	return e.result(r, o, o.Name, keepAs), nil
}

// SnapshotDelete gives a snapshot up.
func (e Part) SnapshotDelete(ctx context.Context, o SnapshotOptions) (SnapshotResult, error) {
	r, err := e.OnDisk(ctx, o, func(d *virt.Domain, f *domain.SnapFacts) ([]plan.Action, error) {
		return domain.PlanDeleteSnapshot(d, f, o.Name, e.Snapshots(ctx))
	})
	if err != nil {
		return SnapshotResult{}, err
	}
	return e.result(r, o, o.Name, ""), nil
}

// Snapshots is the lazy view of libvirt that domain's actions take.
func (e Part) Snapshots(ctx context.Context) func() (domain.Snapshots, error) {
	return func() (domain.Snapshots, error) { return e.Libvirt(ctx) }
}

// diskRun is what a verb on a disk did.
type diskRun struct {
	W       *target.Target
	was     virt.State
	changed bool
}

// OnDisk stops the VM if it runs, applies what do plans for its disk, and
// starts it again. What is planned is shown and asked for as everywhere; under
// the lock it is planned anew.
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
			w, d, err := e.lookAtDisk(ctx, o.VM, func(_ *target.Target, d *virt.Domain) error {
				f, err := e.LookAtSnapshots(ctx, d)
				if err != nil {
					return err
				}
				as, err := do(d, f)
				p = e.PlanOnDisk(ctx, d, as)
				return err
			})
			if w != nil {
				o.VM, r.W = w.Name, w
			}
			if err == nil && !begun {
				// Another run may have started or stopped it since the last look.
				r.was = d.State
			}
			return p, err
		},
		Dry: func(p plan.Plan) error {
			if r.was != virt.Off && !p.Empty() && !o.StayOff {
				p.Add(plan.Action{ID: "domain.start", Why: "start the VM " + o.VM + " again", Shows: []string{"virsh start " + o.VM}})
			}
			return e.Dry(e.Verb, o.VM, p)
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
	if !r.changed || r.was == virt.Off || o.StayOff {
		return r, nil
	}
	// It ran, so it is to run again, with its folders.
	w, err := target.Recorded(r.W.Store, r.W.Name)
	if err != nil {
		return nil, err
	}
	_, f, err := e.Converge(ctx, w.Started())
	if err != nil {
		return nil, fmt.Errorf("the disk is done, but starting VM %q again failed: %w", w.Name, err)
	}
	f.Close()
	return r, nil
}

// lookAtDisk finds a VM and reads of its disk what do wants. A domain that is
// gone before all was read is looked for once more, and so is its record.
func (e Part) lookAtDisk(ctx context.Context, name string, do func(*target.Target, *virt.Domain) error) (w *target.Target, d *virt.Domain, err error) {
	for range 2 {
		if w, d, err = e.withDisk(ctx, name); err == nil {
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

// withDisk is ours for a VM that must be there.
func (e Part) withDisk(ctx context.Context, name string) (*target.Target, *virt.Domain, error) {
	w, d, err := e.OwnVM(ctx, name)
	if err == nil && d == nil {
		err = ui.Refused("VM %q does not exist in libvirt, so it has no disk", w.Name).Hint(ui.Cmd("aivm vm up " + w.Name))
	}
	return w, d, err
}

// LookAtSnapshots reads what there is of snapshots of a VM.
func (e Part) LookAtSnapshots(ctx context.Context, d *virt.Domain) (*domain.SnapFacts, error) {
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

// PlanOnDisk is as, which are for the disk of d, after a stop if the VM runs.
func (e Part) PlanOnDisk(ctx context.Context, d *virt.Domain, as []plan.Action) plan.Plan {
	p := plan.Plan{Stage: plan.Host}
	if len(as) == 0 {
		return p
	}
	for _, a := range domain.PlanStop(d, false, e.Domains(ctx)) {
		a.Consent = plan.Ask
		a.Why += ", since a disk can only be kept or put back while nobody writes to it"
		p.Add(a)
	}
	p.Add(as...)
	return p
}

// NotInIt says what a snapshot of the disk does not cover.
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
	res := SnapshotResult{Schema: 1, VM: r.W.Name, Snapshot: name, Kept: kept, State: string(r.was), NotInIt: e.NotInIt(r.W), Changed: r.changed}
	if r.was != virt.Off && r.changed && o.StayOff {
		res.State = string(virt.Off)
	} else if r.was == virt.Paused && r.changed {
		res.State = string(virt.Running)
	}
	return res
}

// knownToBrowser reports whether a browser knows the VM's editor by an address.
func (e Part) knownToBrowser(vm string) bool {
	_, err := os.Lstat(e.State().BrowserPath(vm))
	return err == nil
}

// planForgetBrowser has the VM's editor get another address.
func (e Part) planForgetBrowser(vm string) []plan.Action {
	path := e.State().BrowserPath(vm)
	return []plan.Action{{
		ID: "browser.forget", Why: "have a browser know the VM's editor by another address, since what it keeps for the old one is of the VM as it is now",
		Shows: []string{"rm " + path},
		Do: func(context.Context) error {
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
			return nil
		},
	}}
}
