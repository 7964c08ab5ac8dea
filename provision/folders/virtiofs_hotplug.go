package folders

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/target"
)

// A folder in mode shared has a virtiofs device of its own. The device is in the
// VM's definition, so that it exists after every start. It is hot-plugged into the
// running VM only after the folder is mounted on the host: its virtiofsd serves
// what is mounted there at its start, and nothing mounted later.

// planAttachDevices plans to hot-plug the devices that the running VM lacks.
func (e Part) planAttachDevices(w *target.Target, f *loop.Facts, skipped loop.Skipped) ([]plan.Action, error) {
	var out []plan.Action
	for _, a := range f.AttsWithout(w, skipped) {
		if a.Mode != share.Shared || f.Share.Folders[a.HostPath].Err != nil {
			continue
		}
		if f.Domain.Domain.Err != nil && f.Conn != nil && share.Verify(f.Guest.Share, f.Share, a) == nil {
			continue // libvirt cannot be asked, but the guest has it mounted
		}
		d := f.Domain.Domain.Value
		token := share.Token(a.HostPath)
		switch {
		case !f.Running() && !(w.Boot && f.Conn == nil):
			continue // the next start of the VM adds it
		case d != nil && virt.HasFilesystem(d.StoredFS, token) && (!f.Running() || virt.HasFilesystem(d.Filesystems, token) && f.Share.Mounted(a)):
			continue
		}
		if d != nil && !d.SharedRAM {
			return nil, ui.Refused("VM %s was made without shared memory and cannot have a device for folder %s", w.Name, a.HostPath).
				Hint(ui.CmdFor("use a mode that needs no device", "aivm attach "+shellescape.Quote(a.HostPath)+" --vm "+w.Name+" --mode git"),
					ui.CmdFor("or another VM; aivm never recreates this one by itself", "aivm vm create NAME"))
		}
		dev := virt.Filesystem{Source: root.ExportRoot(e.Key(w.Name)) + "/" + token, Tag: token}
		act := plan.Action{
			ID: "share.plug:" + token, Why: fmt.Sprintf("attach a virtiofs device for folder %s to VM %s", a.HostPath, w.Name), Timing: "share",
			Shows: []string{fmt.Sprintf("virsh attach-device %s (virtiofs, %s)", w.Name, token)},
			Do: func(ctx context.Context) error {
				l, err := e.Libvirt(ctx)
				if err != nil {
					return err
				}
				return noSlotError(w.Name, a, l.AttachFilesystem(ctx, w.Name, dev))
			},
		}
		if w.Folder == nil || a.HostPath != w.Folder.HostPath {
			act.Fail = func(err error) error { e.leaveOut(f, loop.Skipped{a.HostPath: err}); return nil }
		}
		out = append(out, act)
	}
	return out, nil
}

// NeedsLibvirt reports whether the plan of w's folders depends on libvirt's facts
// although the guest answers: a folder in mode shared is not mounted in the guest.
func NeedsLibvirt(w *target.Target, f *loop.Facts) bool {
	return slices.ContainsFunc(f.Atts(w), func(a share.Attachment) bool {
		return a.Mode == share.Shared && f.Share.Folders[a.HostPath].Err == nil && share.Verify(f.Guest.Share, f.Share, a) != nil
	})
}

// detachDevice is the action that detaches a folder's virtiofs device from the VM,
// before the folder is unmounted on the host.
func (e Part) detachDevice(w *target.Target, token, folder string) plan.Action {
	return plan.Action{
		ID: "share.unplug:" + token, Why: fmt.Sprintf("detach the virtiofs device of folder %s from VM %s", folder, w.Name), Timing: "share",
		Shows: []string{fmt.Sprintf("virsh detach-device %s (virtiofs, %s)", w.Name, token)},
		Do: func(ctx context.Context) error {
			l, err := e.Libvirt(ctx)
			if err != nil {
				return err
			}
			err = l.DetachFilesystem(ctx, w.Name, token)
			if errors.Is(err, virt.ErrStillAttached) {
				return ui.Refused("VM %s does not release the device of folder %s: a program in the VM uses the folder", w.Name, folder).
					Hint(ui.CmdFor("stop the VM, which releases everything", "aivm vm down "+w.Name))
			}
			if errors.Is(err, virt.ErrNotFound) {
				return nil
			}
			return err
		},
	}
}

// PlanDetachDevice plans to detach a's device, if it has one. If libvirt refuses
// this user, the plan first connects through root.
func (e Part) PlanDetachDevice(w *target.Target, f *loop.Facts, a share.Attachment) []plan.Action {
	token := share.Token(a.HostPath)
	var out []plan.Action
	switch {
	case f.Domain.Domain.Err == nil && !loop.HasDevice(f, token):
		return nil
	case f.Domain.Domain.Err != nil && a.Mode != share.Shared:
		return nil
	case errors.Is(f.Virt.Err, virt.ErrDenied):
		if open, err := e.PlanLibvirt(f.Virt.Err, f.Socket); err == nil {
			open.Again = false
			out = append(out, open)
		}
	}
	return append(out, e.detachDevice(w, token, a.HostPath))
}

// PlanStaleDevices plans to remove devices from the definition of a VM that is about
// to start and would fail to because of them: their folder does not exist, or is not
// shared in this run.
func (e Part) PlanStaleDevices(w *target.Target, f *loop.Facts, skipped loop.Skipped) []plan.Action {
	d := f.Domain.Domain.Value
	if d == nil || d.State == virt.Running {
		return nil
	}
	wanted := map[string]bool{share.FSTag: true}
	for _, a := range f.AttsWithout(w, skipped) {
		if a.Mode == share.Shared && f.Share.Folders[a.HostPath].Err == nil {
			wanted[share.Token(a.HostPath)] = true
		}
	}
	var out []plan.Action
	for _, fs := range d.StoredFS {
		if !wanted[fs.Tag] {
			out = append(out, e.detachDevice(w, fs.Tag, fs.Source))
		}
	}
	return out
}

// noSlotError turns virt.ErrNoSlot into the refusal of one folder too many.
func noSlotError(vm string, a share.Attachment, err error) error {
	if !errors.Is(err, virt.ErrNoSlot) {
		return err
	}
	return target.TooMany(vm, a.HostPath)
}
