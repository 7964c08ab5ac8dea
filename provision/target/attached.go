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

// All folders of a VM are one matter: each look asks for all of them, and each
// run that brings the VM to a state brings them all back. The folder a verb was
// given has to work; another one that does not is named and left out.

// Atts are the folders this run is concerned with: the one the verb was given,
// and what else is attached to the VM and can be mounted, without those it goes on
// without.
func (w *Target) Atts(without map[string]error) []share.Attachment {
	var out []share.Attachment
	taken := map[string]bool{}
	if w.Folder != nil && w.Folder.Mode.Mounts() {
		out = append(out, *w.Folder)
		taken[w.Folder.GuestDst] = true
	}
	for _, a := range w.Others() {
		if without[a.HostPath] == nil && share.Check(a) == nil && !taken[a.GuestDst] {
			out = append(out, a)
			taken[a.GuestDst] = true
		}
	}
	return out
}

// Others are the saved folders of the VM that are mounted in it, without the
// one the verb was given.
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

// ErrDetached: a run that was waited for took the folder away.
var ErrDetached = errors.New("detached")

// Refresh returns w by the store as it is now, once this run has the VM's lock:
// another run may have attached or detached folders meanwhile, and nothing that was
// taken away is brought back.
func (e Finder) Refresh(w *Target) (*Target, error) {
	e.Reload()
	store, err := e.Load()
	if err != nil {
		return w, err
	}
	w = w.with(func(t *Target) { t.Store = store })
	if _, ok := store.Config.FindVM(w.Name); !ok && !w.NewVM {
		// Nothing recreates a VM by itself, a run that waited least of all.
		return w, ui.Failed("VM %s was deleted meanwhile", w.Name).Hint(ui.CmdFor("to make it anew", "aivm vm create "+w.Name))
	}
	if w.Folder == nil {
		return w, nil
	}
	r, ok := store.Config.FindAttachment(w.Folder.HostPath, w.Name)
	switch {
	case !ok && !w.NewFolder:
		return w, ui.Failed("folder %s was %w from VM %s meanwhile", w.Folder.HostPath, ErrDetached, w.Name).Hint(ui.Cmd(e.Rerun))
	case ok && w.NewFolder:
		return w.takeRecorded(*r)
	}
	return w, nil
}

// takeRecorded is w with a folder that another run recorded while this one
// waited, if it is the same wish.
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

// RecordState writes the state of an attachment into the store.
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

// TooMany refuses the folder after the last in mode shared.
func TooMany(vm, folder string) error {
	q := "aivm attach " + shellescape.Quote(folder) + " --vm " + vm
	return ui.Refused("VM %s has no room for the device of folder %s: %d folders in mode shared are the most there can be", vm, folder, share.MaxShared).
		Hint(ui.CmdFor("any number of folders share one device", q+" --mode shared-root"), ui.CmdFor("or give the VM a clone of a repository", q+" --mode git"), ui.CmdFor("or detach one that is not needed", "aivm list"))
}

// checkRoom refuses the folder after the last in mode shared.
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

// Opens is the command that opens the folder, starting the VM if it must.
func (w *Target) OpenCommand() string {
	cmd := "aivm code " + shellescape.Quote(w.Folder.HostPath)
	for _, a := range w.Store.Config.AttachmentsOf(w.Folder.HostPath) {
		if a.VMName != w.Name {
			return cmd + " --vm " + w.Name
		}
	}
	return cmd
}
