package domain

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"strings"
	"time"

	"aivm.dev/aivm/internal/lazyre"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
)

// Snapshots are internal qcow2 snapshots, inside the disk's file. libvirt makes them while
// the VM is off. docs/architecture.md says why they are not overlays.

// A name must start with a letter: QEMU takes a number for the id of a snapshot.
var snapshotRE = lazyre.New(`^[A-Za-z][A-Za-z0-9._-]{0,62}$`)

// CheckSnapshotName refuses a name that QEMU, libvirt or a shell could misread.
func CheckSnapshotName(name string) error {
	if snapshotRE.MatchString(name) {
		return nil
	}
	return ui.Usage("%q cannot name a snapshot: want letters, digits, '.', '_' and '-', starting with a letter, at most 63", ui.CleanTo(name, 80)).
		Hint(ui.CmdFor("for example", "aivm vm snapshot before-upgrade"))
}

// BeforeRollback is the prefix of the snapshots that save the disk before a rollback.
const BeforeRollback = "before-rollback-"

// NewName returns a snapshot name made of prefix and the time, one that does not exist yet.
func (f *SnapFacts) NewName(prefix string, now time.Time) string {
	name := prefix + now.Format("20060102-150405")
	for n, base := 2, name; ; n++ {
		if _, taken := f.Find(name); !taken {
			return name
		}
		name = fmt.Sprintf("%s-%d", base, n)
	}
}

// snapshotXML returns the XML to create a snapshot, or, with a domain's definition, to
// redefine an existing one that was made at the time at.
func snapshotXML(name, target, definition string, at time.Time) (string, error) {
	var esc strings.Builder
	if err := xml.EscapeText(&esc, []byte(name)); err != nil {
		return "", err
	}
	desc := "<domainsnapshot><name>" + esc.String() + "</name><memory snapshot='no'/>"
	if definition != "" {
		desc += fmt.Sprintf("<state>shutoff</state><creationTime>%d</creationTime>", at.Unix())
	}
	// The seed of a first boot is not qcow2 and not part of the snapshot. libvirt itself
	// leaves out disks that are not named here and are read-only.
	desc += "<disks><disk name='" + target + "' snapshot='internal'/>"
	if definition == "" {
		return desc + "</disks></domainsnapshot>", nil
	}
	return desc + "</disks>" + definition + "</domainsnapshot>", nil
}

// PlanSnapshot plans to save the present state of the disk as a snapshot.
func PlanSnapshot(d *virt.Domain, f *SnapFacts, name string, lv func() (Snapshots, error)) ([]plan.Action, error) {
	if err := CheckSnapshotName(name); err != nil {
		return nil, err
	}
	if s, there := f.Find(name); there {
		return nil, ui.Refused("VM %q already has a snapshot %q, of %s", d.Name, name, s.At.Format(time.DateTime)).
			Hint(ui.CmdFor("choose another name; those in use", "aivm vm snapshots "+d.Name), ui.CmdFor("or delete the old one", "aivm vm snapshot-delete "+name+" --vm "+d.Name))
	}
	return []plan.Action{snapshotAction("snapshot.create", "save the present disk of "+d.Name+" as snapshot "+name, d, name, lv)}, nil
}

// snapshotAction is the action that creates a snapshot and records its parent.
func snapshotAction(id, why string, d *virt.Domain, name string, lv func() (Snapshots, error)) plan.Action {
	return plan.Action{
		ID: id, Why: why, Shows: []string{"virsh snapshot-create-as " + d.Name + " " + name},
		Do: withSnapshots(lv, d, func(ctx context.Context, l Snapshots, f *SnapFacts) error {
			if _, there := f.Find(name); there {
				return fmt.Errorf("another process made a snapshot %q: %w", name, plan.ErrStale)
			}
			desc, err := snapshotXML(name, f.Disk.Target, "", time.Time{})
			if err != nil {
				return err
			}
			// libvirt refuses a name on its list even if the disk has no such snapshot.
			if err := l.ForgetSnapshot(ctx, d.Name, name); err != nil {
				return err
			}
			if err := l.CreateSnapshot(ctx, d.Name, desc); err != nil {
				return err
			}
			f.Snapshots = append(f.Snapshots, Snapshot{Name: name, Parent: f.Current()})
			return saveTree(ctx, l, d.Name, f.tree(name))
		}),
	}
}

// PlanRollback plans to return the disk to a snapshot. It first saves the present state as
// snapshot keepAs, unless a snapshot already has exactly that state. kept is called when
// it was saved.
func PlanRollback(d *virt.Domain, f *SnapFacts, name, keepAs string, kept func(), lv func() (Snapshots, error)) ([]plan.Action, error) {
	s, there := f.Find(name)
	if !there {
		return nil, noSnapshot(d.Name, name, f)
	}
	if s.Current && !f.Changed {
		return nil, nil
	}
	var out []plan.Action
	if f.Changed {
		a := snapshotAction("snapshot.keep", "save the present disk as snapshot "+keepAs, d, keepAs, lv)
		a.Consent = plan.Ask
		do := a.Do
		a.Do = withSnapshots(lv, d, func(ctx context.Context, _ Snapshots, now *SnapFacts) error {
			if !now.Changed {
				return nil // while the VM ran, the disk only seemed to differ
			}
			if err := do(ctx); err != nil {
				return err
			}
			kept()
			return nil
		})
		out = append(out, a)
	}
	return append(out, plan.Action{
		ID: "snapshot.rollback", Why: fmt.Sprintf("roll back the disk of %s to snapshot %s of %s", d.Name, name, s.At.Format(time.DateTime)),
		Shows: []string{"virsh snapshot-revert " + d.Name + " " + name}, Consent: plan.Ask,
		Do: withSnapshots(lv, d, func(ctx context.Context, l Snapshots, f *SnapFacts) error {
			if _, there := f.Find(name); !there {
				return noSnapshot(d.Name, name, f)
			}
			// Reverting also restores the definition that libvirt stores with the snapshot.
			// Only the disk is to change, so store the present definition first.
			if err := redefineSnapshot(ctx, l, d.Name, name, f); err != nil {
				return err
			}
			if err := l.RevertSnapshot(ctx, d.Name, name); err != nil {
				return err
			}
			return saveTree(ctx, l, d.Name, f.tree(name))
		}),
	}), nil
}

// PlanDeleteSnapshot plans to delete a snapshot. Data that other snapshots or the present
// disk need is kept.
func PlanDeleteSnapshot(d *virt.Domain, f *SnapFacts, name string, lv func() (Snapshots, error)) ([]plan.Action, error) {
	if _, there := f.Find(name); !there {
		return nil, noSnapshot(d.Name, name, f)
	}
	return []plan.Action{{
		ID: "snapshot.delete:" + name, Why: fmt.Sprintf("delete snapshot %s of %s for good, with the commits and files that only it has", name, d.Name),
		Shows: []string{"virsh snapshot-delete " + d.Name + " " + name}, Consent: plan.Ask,
		Do: withSnapshots(lv, d, func(ctx context.Context, l Snapshots, f *SnapFacts) error {
			// If the run is killed in between, the tree names a deleted snapshot;
			// applyTree ignores that.
			if _, there := f.Find(name); there {
				if err := redefineSnapshot(ctx, l, d.Name, name, f); err != nil {
					return err
				}
				if err := l.DeleteSnapshot(ctx, d.Name, name); err != nil {
					return err
				}
			}
			return saveTree(ctx, l, d.Name, f.treeWithout(name))
		}),
	}}, nil
}

func noSnapshot(vm, name string, f *SnapFacts) error {
	e := ui.Refused("VM %q has no snapshot %q", vm, ui.CleanTo(name, 80))
	if len(f.Snapshots) == 0 {
		return e.Hint(ui.CmdFor("it has none yet", "aivm vm snapshot NAME --vm "+vm))
	}
	return e.Hint(ui.Cmd("aivm vm snapshots " + vm))
}

// redefineSnapshot makes libvirt store a snapshot with the present definition of the
// domain.
func redefineSnapshot(ctx context.Context, l Snapshots, vm, name string, f *SnapFacts) error {
	def, err := l.InactiveXML(ctx, vm)
	if err != nil {
		return err
	}
	s, _ := f.Find(name)
	desc, err := snapshotXML(name, f.Disk.Target, def, s.At)
	if err != nil {
		return err
	}
	return l.RedefineSnapshot(ctx, vm, name, desc)
}

// saveTree stores the tree in the domain's metadata.
func saveTree(ctx context.Context, l Snapshots, vm string, t tree) error {
	element, err := t.encode()
	if err != nil {
		return err
	}
	return l.SetMetadata(ctx, vm, treePrefix, treeNS, element)
}

// withSnapshots turns f into an action's Do. When the action runs, it checks that the
// domain is the same one and is off, and gives f its present snapshots.
func withSnapshots(lv func() (Snapshots, error), d *virt.Domain, f func(context.Context, Snapshots, *SnapFacts) error) func(context.Context) error {
	return func(ctx context.Context) error {
		l, err := lv()
		if err != nil {
			return err
		}
		now, err := l.Domain(ctx, d.Name)
		switch {
		case errors.Is(err, virt.ErrNotFound) || err == nil && (now.UUID != d.UUID || now.Mark != d.Mark):
			return fmt.Errorf("the domain %q was replaced by another one: %w", d.Name, plan.ErrStale)
		case err != nil:
			return err
		case now.State != virt.Off:
			return ui.Failed("VM %q was started while aivm was running; it must be off for this", d.Name).Hint(ui.Cmd("aivm vm down " + d.Name))
		}
		facts, err := ObserveSnapshots(ctx, l, now, false)
		if err != nil {
			return err
		}
		return f(ctx, l, facts)
	}
}
