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

// Snapshots are qcow2's own, inside the disk's file, made by libvirt on a VM
// that is off. Why not overlays: docs/architecture.md.

// QEMU takes a name that is a number for the number of a snapshot, hence the
// letter first.
var snapshotRE = lazyre.New(`^[A-Za-z][A-Za-z0-9._-]{0,62}$`)

// CheckSnapshotName refuses a name that could mean something else somewhere.
func CheckSnapshotName(name string) error {
	if snapshotRE.MatchString(name) {
		return nil
	}
	return ui.Usage("%q cannot name a snapshot: want letters, digits, '.', '_' and '-', starting with a letter, at most 63", ui.CleanTo(name, 80)).
		Hint(ui.CmdFor("for example", "aivm vm snapshot before-upgrade"))
}

// BeforeRollback names what a rollback keeps of the present.
const BeforeRollback = "before-rollback-"

// Stamp makes a name of a moment, one that f does not have yet.
func (f *SnapFacts) NewName(prefix string, now time.Time) string {
	name := prefix + now.Format("20060102-150405")
	for n, base := 2, name; ; n++ {
		if _, taken := f.Find(name); !taken {
			return name
		}
		name = fmt.Sprintf("%s-%d", base, n)
	}
}

func snapshotXML(name, target, definition string, at time.Time) (string, error) {
	var esc strings.Builder
	if err := xml.EscapeText(&esc, []byte(name)); err != nil {
		return "", err
	}
	desc := "<domainsnapshot><name>" + esc.String() + "</name><memory snapshot='no'/>"
	if definition != "" {
		desc += fmt.Sprintf("<state>shutoff</state><creationTime>%d</creationTime>", at.Unix())
	}
	// The seed of a first boot is no qcow2 and no part of it; libvirt leaves out
	// by itself what is not named here and cannot be written.
	desc += "<disks><disk name='" + target + "' snapshot='internal'/>"
	if definition == "" {
		return desc + "</disks></domainsnapshot>", nil
	}
	return desc + "</disks>" + definition + "</domainsnapshot>", nil
}

// PlanSnapshot keeps the disk as it is now under a name.
func PlanSnapshot(d *virt.Domain, f *SnapFacts, name string, lv func() (Snapshots, error)) ([]plan.Action, error) {
	if err := CheckSnapshotName(name); err != nil {
		return nil, err
	}
	if s, there := f.Find(name); there {
		return nil, ui.Refused("VM %q has a snapshot %q already, of %s", d.Name, name, s.At.Format(time.DateTime)).
			Hint(ui.CmdFor("choose another name, or", "aivm vm snapshots "+d.Name), ui.CmdFor("to take it away", "aivm vm snapshot-delete "+name+" --vm "+d.Name))
	}
	return []plan.Action{snapshotAction("snapshot.create", "keep the disk of "+d.Name+" as it is now as snapshot "+name, d, name, lv)}, nil
}

// keep is the action that makes a snapshot and notes where it stands.
func snapshotAction(id, why string, d *virt.Domain, name string, lv func() (Snapshots, error)) plan.Action {
	return plan.Action{
		ID: id, Why: why, Shows: []string{"virsh snapshot-create-as " + d.Name + " " + name},
		Do: withSnapshots(lv, d, func(ctx context.Context, l Snapshots, f *SnapFacts) error {
			if _, there := f.Find(name); there {
				return fmt.Errorf("a snapshot %q was made meanwhile: %w", name, plan.ErrStale)
			}
			desc, err := snapshotXML(name, f.Disk.Target, "", time.Time{})
			if err != nil {
				return err
			}
			// libvirt refuses a name it has on its list, though the disk has it no more.
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

// PlanRollback puts the disk back to a snapshot, keeping the present first as
// keepAs unless a snapshot holds exactly that. kept is told when that was done.
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
		a := snapshotAction("snapshot.keep", "keep the disk as it is now as snapshot "+keepAs, d, keepAs, lv)
		a.Consent = plan.Ask
		do := a.Do
		a.Do = withSnapshots(lv, d, func(ctx context.Context, _ Snapshots, now *SnapFacts) error {
			if !now.Changed {
				return nil // what looked like a change while it ran was none
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
		ID: "snapshot.rollback", Why: fmt.Sprintf("put the disk of %s back to snapshot %s of %s", d.Name, name, s.At.Format(time.DateTime)),
		Shows: []string{"virsh snapshot-revert " + d.Name + " " + name}, Consent: plan.Ask,
		Do: withSnapshots(lv, d, func(ctx context.Context, l Snapshots, f *SnapFacts) error {
			if _, there := f.Find(name); !there {
				return noSnapshot(d.Name, name, f)
			}
			// Reverting also puts back the definition libvirt keeps with the
			// snapshot. Only the disk is to change: let it keep the present one.
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

// PlanDeleteSnapshot gives a snapshot up. What others need of it stays.
func PlanDeleteSnapshot(d *virt.Domain, f *SnapFacts, name string, lv func() (Snapshots, error)) ([]plan.Action, error) {
	if _, there := f.Find(name); !there {
		return nil, noSnapshot(d.Name, name, f)
	}
	return []plan.Action{{
		ID: "snapshot.delete:" + name, Why: fmt.Sprintf("delete snapshot %s of %s, which then cannot be gone back to, with the commits and files that only it has", name, d.Name),
		Shows: []string{"virsh snapshot-delete " + d.Name + " " + name}, Consent: plan.Ask,
		Do: withSnapshots(lv, d, func(ctx context.Context, l Snapshots, f *SnapFacts) error {
			// Killed in between, the tree names one that is gone; apply skips it.
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

// know has libvirt keep a snapshot with the present definition of the domain.
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
	return l.KnowSnapshot(ctx, vm, name, desc)
}

func saveTree(ctx context.Context, l Snapshots, vm string, t tree) error {
	element, err := t.encode()
	if err != nil {
		return err
	}
	return l.SetMetadata(ctx, vm, treePrefix, treeNS, element)
}

// withSnapshots runs f on what is true when the action runs, for the same VM,
// off.
func withSnapshots(lv func() (Snapshots, error), d *virt.Domain, f func(context.Context, Snapshots, *SnapFacts) error) func(context.Context) error {
	return func(ctx context.Context) error {
		l, err := lv()
		if err != nil {
			return err
		}
		now, err := l.Domain(ctx, d.Name)
		switch {
		case errors.Is(err, virt.ErrNotFound) || err == nil && (now.UUID != d.UUID || now.Mark != d.Mark):
			return fmt.Errorf("the domain %q is another one now: %w", d.Name, plan.ErrStale)
		case err != nil:
			return err
		case now.State != virt.Off:
			return ui.Failed("VM %q was started meanwhile; snapshots are made of a VM that is off", d.Name).Hint(ui.Cmd("aivm vm down " + d.Name))
		}
		facts, err := ObserveSnapshots(ctx, l, now, false)
		if err != nil {
			return err
		}
		return f(ctx, l, facts)
	}
}
