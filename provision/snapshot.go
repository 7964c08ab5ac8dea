package provision

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/domain"
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
}

// Snapshot keeps the disk of a VM under a name. A VM that runs is stopped for
// it, if that is agreed to, and started again.
func (e *Env) Snapshot(ctx context.Context, o SnapshotOptions) error {
	if o.Name != "" {
		if err := domain.CheckSnapshotName(o.Name); err != nil {
			return err
		}
	}
	name := o.Name
	r, err := e.onDisk(ctx, o, func(d *virt.Domain, f *domain.SnapFacts) ([]plan.Action, error) {
		if name == "" {
			name = f.Stamp("snap-", e.now())
		}
		return domain.PlanSnapshot(d, f, name, e.snapshots(ctx))
	})
	if err != nil {
		return err
	}
	return e.saidSnapshot(r, SnapshotResult{Snapshot: name}, o,
		"Snapshot %s of VM %s is kept; to go back to it: aivm vm rollback %s --vm %s", name, r.w.name, name, r.w.name)
}

// snapshotFirst keeps the disk of w's VM before `code` goes on; a VM that is
// still to be made has none.
func (e *Env) snapshotFirst(ctx context.Context, w *want) error {
	if w.newVM {
		e.UI.Say("There is no VM yet, so there is nothing to keep.")
		return nil
	}
	name := ""
	plans := func(d *virt.Domain, f *domain.SnapFacts) ([]plan.Action, error) {
		if name == "" {
			name = f.Stamp("before-code-", e.now())
		}
		return domain.PlanSnapshot(d, f, name, e.snapshots(ctx))
	}
	if e.DryRun {
		_, d, err := e.ours(ctx, w.name)
		if err == nil && d != nil {
			w.first, err = e.planOnDisk(ctx, w, d, plans)
		}
		return err
	}
	r, err := e.onDisk(ctx, SnapshotOptions{VM: w.name, StayOff: true}, plans)
	if err == nil {
		e.UI.Say("Snapshot %s of VM %s is kept. Not part of it: %s", name, w.name, strings.Join(e.notInIt(r.w), "; "))
	}
	return err
}

// Rollback puts the disk of a VM back to a snapshot, and keeps the present
// first.
func (e *Env) Rollback(ctx context.Context, o SnapshotOptions) error {
	keepAs, kept := "", false
	r, err := e.onDisk(ctx, o, func(d *virt.Domain, f *domain.SnapFacts) ([]plan.Action, error) {
		if keepAs == "" {
			keepAs = f.Stamp(domain.BeforeRollback, e.now())
		}
		as, err := domain.PlanRollback(d, f, o.Name, keepAs, func() { kept = true }, e.snapshots(ctx))
		if len(as) > 0 {
			as = append(e.planForgetBrowser(d.Name), as...)
		}
		return as, err
	})
	switch {
	case err != nil:
		return err
	case !r.changed:
		return e.saidSnapshot(r, SnapshotResult{Snapshot: o.Name}, o, "The disk of VM %s is as in snapshot %s already", r.w.name, o.Name)
	case !kept:
		return e.saidSnapshot(r, SnapshotResult{Snapshot: o.Name}, o, "VM %s is back at snapshot %s", r.w.name, o.Name)
	}
	return e.saidSnapshot(r, SnapshotResult{Snapshot: o.Name, Kept: keepAs}, o,
		"VM %s is back at snapshot %s; what it was before is kept as %s", r.w.name, o.Name, keepAs)
}

// SnapshotDelete gives a snapshot up.
func (e *Env) SnapshotDelete(ctx context.Context, o SnapshotOptions) error {
	r, err := e.onDisk(ctx, o, func(d *virt.Domain, f *domain.SnapFacts) ([]plan.Action, error) {
		return domain.PlanDeleteSnapshot(d, f, o.Name, e.snapshots(ctx))
	})
	if err != nil {
		return err
	}
	return e.saidSnapshot(r, SnapshotResult{Snapshot: o.Name}, o, "Snapshot %s of VM %s is deleted", o.Name, r.w.name)
}

func (e *Env) snapshots(ctx context.Context) func() (domain.Snapshots, error) {
	return func() (domain.Snapshots, error) { return e.libvirt(ctx) }
}

// diskRun is what a verb on a disk did.
type diskRun struct {
	w       *want
	was     virt.State
	changed bool
}

// onDisk stops the VM if it runs, applies what do plans for its disk, and
// starts it again. What is planned is shown and asked for as everywhere; under
// the lock it is planned anew.
func (e *Env) onDisk(ctx context.Context, o SnapshotOptions, do func(*virt.Domain, *domain.SnapFacts) ([]plan.Action, error)) (*diskRun, error) {
	if e.timing == nil {
		e.timing = ui.NewTiming("define", "boot", "ssh")
	}
	release := func() {}
	defer func() { release() }()
	r := &diskRun{}
	locked, begun := false, false
	for round := 0; ; round++ {
		if round == maxRounds {
			return nil, ui.Failed("the VM keeps changing under aivm").Hint("try again: " + e.Rerun)
		}
		var p plan.Plan
		w, d, err := e.lookAtDisk(ctx, o.VM, func(w *want, d *virt.Domain) (err error) {
			p, err = e.planOnDisk(ctx, w, d, do)
			return err
		})
		if w != nil {
			o.VM = w.name
		}
		if err != nil && w != nil && !locked && !e.DryRun && e.lockHeld(w.name) {
			// Half of what was seen may be from before another run's work, half
			// from after it: it is waited for, and looked at again.
			if release, err = e.awaitOther(ctx, w); err != nil {
				return nil, err
			}
			locked = true
			continue
		}
		if err != nil {
			return nil, err
		}
		r.w = w
		if !begun {
			// Another run may have started or stopped it since the last look.
			r.was = d.State
		}
		if e.DryRun {
			if r.was != virt.Off && !p.Empty() && !o.StayOff {
				p.Add(plan.Action{ID: "domain.start", Why: "start the VM " + w.name + " again", Shows: []string{"virsh start " + w.name}})
			}
			if err := e.printPlain(e.Verb, w.name, p); err != nil {
				return nil, err
			}
			return nil, errDry
		}
		if p.Empty() {
			return r, nil
		}
		if len(e.Approval.Open(p)) > 0 && e.UI.InTTY {
			// Nobody waits for a person at a prompt.
			release()
			release, locked = func() {}, false
		}
		if err := e.Approval.Consent(ctx, e.UI, p, nil, e.Rerun); err != nil {
			return nil, err
		}
		if !locked {
			unlock, _, err := e.lock(ctx, w.name)
			if err != nil {
				return nil, e.resume(err)
			}
			release, locked = unlock, true
			continue
		}
		begun = true
		again, err := e.run(ctx, p)
		if err != nil {
			return nil, e.resume(err)
		}
		if again {
			continue
		}
		r.changed = true
		break
	}
	release()
	release = func() {}
	if r.was == virt.Off || o.StayOff {
		return r, nil
	}
	// It ran, so it is to run again, with its folders.
	w := &want{store: r.w.store, name: r.w.name, boot: true, guest: true}
	if err := e.wantKnown(w); err != nil {
		return nil, err
	}
	f, err := e.converge(ctx, w)
	if err != nil {
		return nil, fmt.Errorf("the disk is done, but starting VM %q again failed: %w", w.name, err)
	}
	f.close()
	return r, nil
}

// lookAtDisk finds a VM and reads of its disk what do wants. A domain that is
// gone before all was read is looked for once more, and so is its record.
func (e *Env) lookAtDisk(ctx context.Context, name string, do func(*want, *virt.Domain) error) (w *want, d *virt.Domain, err error) {
	for range 2 {
		if w, d, err = e.withDisk(ctx, name); err == nil {
			err = do(w, d)
		}
		if err == nil || w == nil {
			break
		}
		if rerr := e.refresh(w); rerr != nil {
			return w, nil, rerr
		}
		if name = w.name; !errors.Is(err, virt.ErrNotFound) {
			break
		}
	}
	return w, d, err
}

// withDisk is ours for a VM that must be there.
func (e *Env) withDisk(ctx context.Context, name string) (*want, *virt.Domain, error) {
	w, d, err := e.ours(ctx, name)
	if err == nil && d == nil {
		err = ui.Refused("VM %q does not exist in libvirt, so it has no disk", w.name).Hint("aivm vm up " + w.name)
	}
	return w, d, err
}

func (e *Env) planOnDisk(ctx context.Context, w *want, d *virt.Domain, do func(*virt.Domain, *domain.SnapFacts) ([]plan.Action, error)) (plan.Plan, error) {
	p := plan.Plan{Stage: plan.Host}
	l, err := e.libvirt(ctx)
	if err != nil {
		return p, err
	}
	f, err := domain.ObserveSnapshots(ctx, l, d, false)
	if err != nil {
		return p, err
	}
	if d.State != virt.Off {
		f.Changed = true // QEMU may not have written everything yet
	}
	as, err := do(d, f)
	if err != nil || len(as) == 0 {
		return p, err
	}
	for _, a := range domain.PlanStop(d, false, e.domains(ctx)) {
		a.Consent = plan.Ask
		a.Why += ", since a disk can only be kept or put back while nobody writes to it"
		p.Add(a)
	}
	p.Add(as...)
	return p, nil
}

// notInIt says what a snapshot of the disk does not cover.
func (e *Env) notInIt(w *want) []string {
	out := []string{"the VM's CPUs, memory and devices"}
	for _, a := range w.store.Config.VMAttachments(w.name) {
		if a.Mode != "git" {
			out = append(out, "the shared folder "+a.HostPath)
		}
	}
	return out
}

func (e *Env) saidSnapshot(r *diskRun, res SnapshotResult, o SnapshotOptions, format string, args ...any) error {
	res.Schema, res.VM, res.State, res.NotInIt = 1, r.w.name, string(r.was), e.notInIt(r.w)
	if r.was != virt.Off && r.changed && o.StayOff {
		res.State = string(virt.Off)
	} else if r.was == virt.Paused && r.changed {
		res.State = string(virt.Running)
	}
	if e.UI.JSON {
		return e.UI.PrintJSON(res)
	}
	e.UI.Result(format, args...)
	if r.changed && e.Verb != "snapshot-delete" {
		e.UI.Say("Not part of it: %s", strings.Join(res.NotInIt, "; "))
	}
	if res.State == string(virt.Off) {
		e.UI.Say("The VM is off; to start it: aivm vm up %s", r.w.name)
	}
	return nil
}
