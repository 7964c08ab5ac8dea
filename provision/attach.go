package provision

import (
	"context"
	"errors"
	"fmt"

	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
)

// AttachResult is what `attach --json` prints.
type AttachResult struct {
	Schema   int    `json:"schema"`
	VM       string `json:"vm"`
	Folder   string `json:"folder"`
	GuestDst string `json:"guest_dst"`
	Mode     string `json:"mode"`
	Access   string `json:"access"`
	Mounted  bool   `json:"mounted"`
	Changed  bool   `json:"changed"`
	Protect  bool   `json:"protect,omitempty"`
	// Executed are the files this machine's tools run of a folder that is
	// newly shared for writing.
	Executed []string `json:"executed,omitempty"`
}

// Attach makes a folder visible in a VM. A VM that is off is left off: the
// folder is recorded, and mounted when it is next opened there.
func (e *Env) Attach(ctx context.Context, o FolderOptions) error {
	e.timing = ui.NewTiming("share", "ssh")
	o.Attach = true
	w, f, isNew, err := e.attach(ctx, o)
	if errors.Is(err, errDetached) {
		// It was attached when this run looked, and the run it then waited for
		// took it away: it is attached anew, as it was, or as the folder around it.
		o.VM, o.Mode, o.Access, o.Protect = w.name, string(w.folder.Mode), w.folder.Access, w.folder.Protect
		if w.git == nil {
			o.GuestDst = w.openAt
		}
		w, f, isNew, err = e.attach(ctx, o)
	}
	if err != nil {
		return err
	}
	defer f.close()
	d := f.domain.Domain.Value
	running := f.conn != nil || d != nil && d.State == virt.Running
	if e.UI.JSON {
		return e.UI.PrintJSON(AttachResult{
			Schema: 1, VM: w.name, Folder: w.folder.HostPath, GuestDst: w.folder.GuestDst,
			Mode: string(w.folder.Mode), Access: w.folder.Access, Mounted: f.conn != nil, Changed: isNew, Protect: w.folder.Protect, Executed: w.executedNames(),
		})
	}
	e.UI.Result("Attached %s to VM %s (%s mode, access=%s)", w.folder.HostPath, w.name, w.folder.Mode, w.folder.Access)
	switch {
	case w.git != nil:
		e.sayClone(w, f)
	case f.conn != nil:
		e.UI.Result("Mounted in running VM at %s", w.folder.GuestDst)
	case running:
		e.UI.Result("VM %s runs but was not asked; to have the folder at %s: %s", w.name, w.folder.GuestDst, w.opens())
	default:
		e.UI.Result("VM %s is not running; to have the folder at %s: %s", w.name, w.folder.GuestDst, w.opens())
	}
	e.sayExecuted(w)
	if isNew {
		e.UI.Say("%s", fmt.Sprintf("Recorded in %s", e.StorePath))
	}
	return nil
}

func (e *Env) attach(ctx context.Context, o FolderOptions) (w *want, f *facts, isNew bool, err error) {
	if w, err = e.wantFolder(ctx, o, false); err != nil {
		return nil, nil, false, err
	}
	if w.newVM {
		return nil, nil, false, ui.Refused("VM %q does not exist yet", w.name).Hint("aivm code " + shellQuote(o.Folder))
	}
	w.guest, isNew = true, w.newFolder
	f, err = e.converge(ctx, w)
	return w, f, isNew, err
}

// opens is the command that opens the folder, starting the VM if it must.
func (w *want) opens() string {
	cmd := "aivm code " + shellQuote(w.folder.HostPath)
	for _, a := range w.store.Config.AttachmentsOf(w.folder.HostPath) {
		if a.VMName != w.name {
			return cmd + " --vm " + w.name
		}
	}
	return cmd
}
