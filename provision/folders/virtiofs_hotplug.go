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

// A folder in mode shared has a virtiofs device of its own. The device is in
// the VM's definition, so that it is there after every start, and it is plugged
// into the running VM once the folder is mounted on this machine: its daemon
// goes on serving what is mounted there when it starts.

// planAttachDevices gives the running VM the devices it lacks.
func (e Part) planAttachDevices(w *target.Target, f *loop.Facts, left loop.Skipped) ([]plan.Action, error) {
	var out []plan.Action
	for _, a := range f.AttsWithout(w, left) {
		if a.Mode != share.Shared || f.Share.Folders[a.HostPath].Err != nil {
			continue
		}
		if f.Domain.Domain.Err != nil && f.Conn != nil && share.Verify(f.Guest.Share, f.Share, a) == nil {
			continue // libvirt cannot be asked, and the guest has it
		}
		d := f.Domain.Domain.Value
		token := share.Token(a.HostPath)
		switch {
		case !f.Running() && !(w.Boot && f.Conn == nil):
			continue // it is plugged when the VM is next started
		case d != nil && virt.HasFilesystem(d.StoredFS, token) && (!f.Running() || virt.HasFilesystem(d.Filesystems, token) && f.Share.Mounted(a)):
			continue
		}
		if d != nil && !d.SharedRAM {
			return nil, ui.Refused("VM %s was made without shared memory and cannot have a device for folder %s", w.Name, a.HostPath).
				Hint(ui.CmdFor("use a mode that needs none", "aivm attach "+shellescape.Quote(a.HostPath)+" --vm "+w.Name+" --mode git"),
					ui.CmdFor("or another VM; this one is never made anew by itself", "aivm vm create NAME"))
		}
		dev := virt.Filesystem{Source: root.ExportRoot(e.Key(w.Name)) + "/" + token, Tag: token}
		act := plan.Action{
			ID: "share.plug:" + token, Why: fmt.Sprintf("give VM %s a device for folder %s", w.Name, a.HostPath), Timing: "share",
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

// NeedsLibvirt reports whether the plan of w's folders hangs on what libvirt
// says, though the guest answers: one of mode shared is not there.
func NeedsLibvirt(w *target.Target, f *loop.Facts) bool {
	return slices.ContainsFunc(f.Atts(w), func(a share.Attachment) bool {
		return a.Mode == share.Shared && f.Share.Folders[a.HostPath].Err == nil && share.Verify(f.Guest.Share, f.Share, a) != nil
	})
}

// detachDevice takes the device of a folder away, before what it serves is.
func (e Part) detachDevice(w *target.Target, token, folder string) plan.Action {
	return plan.Action{
		ID: "share.unplug:" + token, Why: fmt.Sprintf("take the device for folder %s away from VM %s", folder, w.Name), Timing: "share",
		Shows: []string{fmt.Sprintf("virsh detach-device %s (virtiofs, %s)", w.Name, token)},
		Do: func(ctx context.Context) error {
			l, err := e.Libvirt(ctx)
			if err != nil {
				return err
			}
			err = l.DetachFilesystem(ctx, w.Name, token)
			if errors.Is(err, virt.ErrStays) {
				return ui.Refused("VM %s does not give back the device of folder %s: something in it uses the folder", w.Name, folder).
					Hint(ui.CmdFor("stop the VM, which gives back everything", "aivm vm down "+w.Name))
			}
			if errors.Is(err, virt.ErrNotFound) {
				return nil
			}
			return err
		},
	}
}

// PlanDetachDevice is what is needed to take a's device away, if it has one. A
// libvirt that refuses this user is opened for the run.
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

// PlanStaleDevices takes devices out of the definition of a VM that is going to be
// started and could not be: what they serve is not there, or is not to be
// shared in this run.
func (e Part) PlanStaleDevices(w *target.Target, f *loop.Facts, left loop.Skipped) []plan.Action {
	d := f.Domain.Domain.Value
	if d == nil || d.State == virt.Running {
		return nil
	}
	wanted := map[string]bool{share.FSTag: true}
	for _, a := range f.AttsWithout(w, left) {
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

func noSlotError(vm string, a share.Attachment, err error) error {
	if !errors.Is(err, virt.ErrNoSlot) {
		return err
	}
	return target.TooMany(vm, a.HostPath)
}
