package provision

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/share"
)

// A folder in mode shared has a virtiofs device of its own. The device is in
// the VM's definition, so that it is there after every start, and it is plugged
// into the running VM once the folder is mounted on this machine: its daemon
// goes on serving what is mounted there when it starts.

// planPlug gives the running VM the devices it lacks.
func (e *Env) planPlug(w *want, f *facts) ([]plan.Action, error) {
	var out []plan.Action
	for _, a := range w.atts() {
		if a.Mode != share.Shared || f.share.Folders[a.HostPath].Err != nil {
			continue
		}
		if f.domain.Domain.Err != nil && f.conn != nil && share.Verify(f.guest.share, f.share, a) == nil {
			continue // libvirt cannot be asked, and the guest has it
		}
		d := f.domain.Domain.Value
		token := share.Token(a.HostPath)
		switch {
		case !f.running() && !(w.boot && f.conn == nil):
			continue // it is plugged when the VM is next started
		case d != nil && virt.HasFilesystem(d.StoredFS, token) && (!f.running() || virt.HasFilesystem(d.Filesystems, token) && f.share.Mounted(a)):
			continue
		}
		if d != nil && !d.SharedRAM {
			return nil, ui.Refused("VM %s was made without shared memory and cannot have a device for folder %s", w.name, a.HostPath).
				Hint("use a mode that needs none: aivm attach "+shellQuote(a.HostPath)+" --vm "+w.name+" --mode git",
					"or another VM; this one is never made anew by itself: aivm vm create NAME")
		}
		dev := virt.Filesystem{Source: root.ExportRoot(e.key(w.name)) + "/" + token, Tag: token}
		act := plan.Action{
			ID: "share.plug:" + token, Why: fmt.Sprintf("give VM %s a device for folder %s", w.name, a.HostPath), Timing: "share",
			Shows: []string{fmt.Sprintf("virsh attach-device %s (virtiofs, %s)", w.name, token)},
			Do: func(ctx context.Context) error {
				l, err := e.libvirt(ctx)
				if err != nil {
					return err
				}
				return noSlot(w.name, a, l.AttachFilesystem(ctx, w.name, dev))
			},
		}
		if w.folder == nil || a.HostPath != w.folder.HostPath {
			act.Fail = func(err error) error { e.leaveOut(w, a.HostPath, err); return nil }
		}
		out = append(out, act)
	}
	return out, nil
}

// asksLibvirt reports whether the plan of w's folders hangs on what libvirt
// says, though the guest answers: one of mode shared is not there.
func (w *want) asksLibvirt(f *facts) bool {
	return slices.ContainsFunc(w.atts(), func(a share.Attachment) bool {
		return a.Mode == share.Shared && f.share.Folders[a.HostPath].Err == nil && share.Verify(f.guest.share, f.share, a) != nil
	})
}

// unplugAction takes the device of a folder away, before what it serves is.
func (e *Env) unplugAction(w *want, token, folder string) plan.Action {
	return plan.Action{
		ID: "share.unplug:" + token, Why: fmt.Sprintf("take the device for folder %s away from VM %s", folder, w.name), Timing: "share",
		Shows: []string{fmt.Sprintf("virsh detach-device %s (virtiofs, %s)", w.name, token)},
		Do: func(ctx context.Context) error {
			l, err := e.libvirt(ctx)
			if err != nil {
				return err
			}
			err = l.DetachFilesystem(ctx, w.name, token)
			if errors.Is(err, virt.ErrStays) {
				return ui.Refused("VM %s does not give back the device of folder %s: something in it uses the folder", w.name, folder).
					Hint("stop the VM, which gives back everything: aivm vm down " + w.name)
			}
			if errors.Is(err, virt.ErrNotFound) {
				return nil
			}
			return err
		},
	}
}

// planUnplug is what is needed to take a's device away, if it has one. A
// libvirt that refuses this user is opened for the run.
func (e *Env) planUnplug(w *want, f *facts, a share.Attachment) []plan.Action {
	token := share.Token(a.HostPath)
	var out []plan.Action
	switch {
	case f.domain.Domain.Err == nil && !plugged(f, token):
		return nil
	case f.domain.Domain.Err != nil && a.Mode != share.Shared:
		return nil
	case errors.Is(f.virt.Err, virt.ErrDenied):
		var p plan.Plan
		if e.planLibvirt(&p, f) == nil {
			p.Actions[0].Again = false
			out = p.Actions
		}
	}
	return append(out, e.unplugAction(w, token, a.HostPath))
}

// plugged reports whether the VM has a device for the token, now or after its
// next start; a libvirt that cannot be asked may have.
func plugged(f *facts, token string) bool {
	d := f.domain.Domain
	return d.Err == nil && d.Value != nil && (virt.HasFilesystem(d.Value.Filesystems, token) || virt.HasFilesystem(d.Value.StoredFS, token))
}

// planStale takes devices out of the definition of a VM that is going to be
// started and could not be: what they serve is not there, or is not to be
// shared in this run.
func (e *Env) planStale(w *want, f *facts) []plan.Action {
	d := f.domain.Domain.Value
	if d == nil || d.State == virt.Running {
		return nil
	}
	wanted := map[string]bool{share.FSTag: true}
	for _, a := range w.atts() {
		if a.Mode == share.Shared && f.share.Folders[a.HostPath].Err == nil {
			wanted[share.Token(a.HostPath)] = true
		}
	}
	var out []plan.Action
	for _, fs := range d.StoredFS {
		if !wanted[fs.Tag] {
			out = append(out, e.unplugAction(w, fs.Tag, fs.Source))
		}
	}
	return out
}

func noSlot(vm string, a share.Attachment, err error) error {
	if !errors.Is(err, virt.ErrNoSlot) {
		return err
	}
	return tooMany(vm, a.HostPath)
}

func tooMany(vm, folder string) error {
	q := "aivm attach " + shellQuote(folder) + " --vm " + vm
	return ui.Refused("VM %s has no room for the device of folder %s: %d folders in mode shared are the most there can be", vm, folder, share.MaxShared).
		Hint("any number of folders share one device: "+q+" --mode shared-root", "or give the VM a clone of a repository: "+q+" --mode git", "or detach one that is not needed: aivm list")
}

// checkRoom refuses the folder after the last in mode shared.
func (w *want) checkRoom(a share.Attachment) error {
	n := 0
	for _, o := range w.others() {
		if o.Mode == share.Shared && o.HostPath != a.HostPath {
			n++
		}
	}
	if a.Mode == share.Shared && n >= share.MaxShared {
		return tooMany(w.name, a.HostPath)
	}
	return nil
}
