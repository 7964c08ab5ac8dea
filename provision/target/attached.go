package target

import (
	"context"
	"errors"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/share"
)

// Each observation reads all folders of a VM, and each run that starts the VM mounts all of
// them again. If the verb's own folder cannot be mounted, the verb fails; another folder that
// cannot be mounted is named and skipped.

// Atts returns the folders that this run mounts: the verb's own folder, and the other folders
// attached to the VM that can be mounted, without the skipped ones.
func (w *Target) Atts(skipped map[string]error) []share.Attachment {
	var out []share.Attachment
	taken := map[string]bool{}
	if w.Folder != nil && w.Folder.Mode.Mounts() {
		out = append(out, *w.Folder)
		taken[w.Folder.GuestDst] = true
	}
	for _, a := range w.Others() {
		if skipped[a.HostPath] == nil && share.Check(a) == nil && !taken[a.GuestDst] {
			out = append(out, a)
			taken[a.GuestDst] = true
		}
	}
	return out
}

// Others returns the recorded folders of the VM that are mounted in it, without the verb's own.
func (w *Target) Others() []share.Attachment {
	if w.Store == nil {
		return nil
	}
	var out []share.Attachment
	for _, r := range w.Store.Config.VMAttachments(w.Name) {
		a := share.Recorded(r)
		if a.Mode.Mounts() && a.State == share.Attached && (w.Folder == nil || a.HostPath != w.Folder.HostPath) {
			out = append(out, a)
		}
	}
	return out
}

// ErrDetached is the cause if another run detached the folder while this run waited.
var ErrDetached = errors.New("detached")

// Refresh reads the config again after this run got the VM's lock, and returns w with it:
// another run may have attached or detached folders before. It does not attach again what
// that run detached.
func (e Finder) Refresh(w *Target) (*Target, error) {
	e.Reload()
	store, err := e.Load()
	if err != nil {
		return w, err
	}
	w = w.with(func(t *Target) { t.Store = store })
	if _, ok := store.Config.FindVM(w.Name); !ok && !w.NewVM {
		// A run that waited does not recreate a VM that another run deleted.
		return w, ui.Failed("VM %s was deleted by another run", w.Name).Hint(ui.CmdFor("to create it again", "aivm vm create "+w.Name))
	}
	if w.Folder == nil {
		return w, nil
	}
	r, ok := store.Config.FindAttachment(w.Folder.HostPath, w.Name)
	switch {
	case !ok && !w.NewFolder:
		return w, ui.Failed("folder %s was %w from VM %s by another run", w.Folder.HostPath, ErrDetached, w.Name).Hint(ui.Cmd(e.Rerun))
	case ok && w.NewFolder:
		return w.takeRecorded(*r)
	}
	return w, nil
}

// takeRecorded returns w with its folder as recorded by another run while this one waited; an
// error if that run attached it with other options.
func (w *Target) takeRecorded(r config.Attachment) (*Target, error) {
	a := share.Recorded(r)
	switch {
	case a.Mode != w.Folder.Mode:
		return w, changeRefused("mode", r, string(a.Mode), string(w.Folder.Mode))
	case a.Access != w.Folder.Access:
		return w, changeRefused("access", r, a.Access, w.Folder.Access)
	case a.GuestDst != w.Folder.GuestDst:
		return w, changeRefused("guest_dst", r, a.GuestDst, w.Folder.GuestDst)
	case a.Protect != w.Folder.Protect:
		return w, changeRefused("protect", r, yesNo(a.Protect), yesNo(w.Folder.Protect))
	}
	return w.with(func(t *Target) { t.NewFolder = a.State != share.Attached }), nil
}

// RecordState returns the action that writes an attachment's state into the config.
func (e Finder) RecordState(a share.Attachment, s share.State, id, why string) plan.Action {
	return plan.Action{
		ID: id, Why: why, Shows: []string{"write " + e.StorePath},
		Do: func(ctx context.Context) error {
			return config.Update(ctx, e.StorePath, func(c *config.Config) error {
				if r, ok := c.FindAttachment(a.HostPath, a.VM); ok {
					r.State = string(s)
				}
				return nil
			})
		},
	}
}

// TooMany returns the refusal of a folder in mode shared when the VM has the maximum of them.
func TooMany(vm, folder string) error {
	q := "aivm attach " + shellescape.Quote(folder) + " --vm " + vm
	return ui.Refused("VM %s cannot get another device for folder %s: it can have %d folders in mode shared", vm, folder, share.MaxShared).
		Hint(ui.CmdFor("in this mode all folders use one device", q+" --mode shared-root"), ui.CmdFor("or give the VM a clone of a repository", q+" --mode git"), ui.CmdFor("or find a folder to detach", "aivm list"))
}

// checkRoom refuses a folder in mode shared if the VM has the maximum of them.
func (w *Target) checkRoom(a share.Attachment) error {
	n := 0
	for _, o := range w.Others() {
		if o.Mode == share.Shared && o.HostPath != a.HostPath {
			n++
		}
	}
	if a.Mode == share.Shared && n >= share.MaxShared {
		return TooMany(w.Name, a.HostPath)
	}
	return nil
}

// OpenCommand returns the command that opens the folder, and starts the VM if necessary.
func (w *Target) OpenCommand() string {
	cmd := "aivm code " + shellescape.Quote(w.Folder.HostPath)
	for _, a := range w.Store.Config.AttachmentsOf(w.Folder.HostPath) {
		if a.VMName != w.Name {
			return cmd + " --vm " + w.Name
		}
	}
	return cmd
}
