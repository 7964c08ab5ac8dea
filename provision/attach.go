package provision

import (
	"context"
	"errors"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/clones"
	"aivm.dev/aivm/provision/folders"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/session"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/target"
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
	// Executed lists the host-executed files of a folder that is newly shared for writing.
	Executed []string `json:"executed,omitempty"`
	// GitProblem is what prevented the transfer of commits, in mode git.
	GitProblem *session.Problem `json:"git_problem,omitempty"`
	// Unmapped lists the users and groups of files that the VM cannot change.
	Unmapped []folders.UnmappedOwner `json:"unmapped,omitempty"`
	// Repositories lists what git needs in the folder and the VM does not have.
	Repositories []folders.RepositoryOutside `json:"repositories,omitempty"`

	Running bool   `json:"-"` // the VM runs; false if that is not known
	Remote  string `json:"-"` // the git remote of the clone, in mode git
	Opens   string `json:"-"` // the command that opens the folder
	Config  string `json:"-"` // the path of the config
}

// Attach makes a folder available in a VM. A VM that is off stays off: the folder is recorded, and
// mounted when it is next opened in the VM.
func (e *Env) Attach(ctx context.Context, o target.FolderOptions) (AttachResult, error) {
	e.Timing = ui.NewTiming("share", "ssh")
	o.Attach = true
	w, f, isNew, err := e.attach(ctx, o)
	if errors.Is(err, target.ErrDetached) {
		// The folder (or its parent) was attached when this run read the config, and the run that
		// this one waited for detached it: attach it again, with the same mode and options.
		o.VM, o.Mode, o.Access, o.Protect = w.Name, string(w.Folder.Mode), w.Folder.Access, w.Folder.Protect
		if w.Clone == nil {
			o.GuestDst = w.OpenAt
		}
		w, f, isNew, err = e.attach(ctx, o)
	}
	if err != nil {
		return AttachResult{}, err
	}
	defer f.Close()
	d := f.Domain.Domain.Value
	running := f.Conn != nil || d != nil && d.State == virt.Running
	folders.For(e.Loop).ReportHostExecuted(w, f)
	r := AttachResult{
		Schema: 1, VM: w.Name, Folder: w.Folder.HostPath, GuestDst: w.Folder.GuestDst,
		Mode: string(w.Folder.Mode), Access: w.Folder.Access, Mounted: f.Conn != nil, Changed: isNew, Protect: w.Folder.Protect, Executed: folders.HostExecutedNames(f),
		Unmapped: folders.UnmappedOwners(w, f), Repositories: folders.For(e.Loop).RepositoriesOutside(w, f),
		Running: running, Opens: w.OpenCommand(), Config: e.StorePath,
	}
	if w.Clone != nil {
		r.Remote, r.GitProblem = f.Clone.Remote.Name, clones.ProblemOf(w, f)
	}
	return r, nil
}

// folderTarget returns the Target of a folder verb, with the repository if the folder is in mode git.
func (e *Env) folderTarget(ctx context.Context, o target.FolderOptions, create bool) (*target.Target, error) {
	w, err := e.Folder(ctx, o, create)
	if linked := new(target.LinkedError); errors.As(err, &linked) && linked.Attachment != nil && !e.DryRun {
		if kerr := e.recordLinked(ctx, *linked.Attachment); kerr != nil {
			return w, kerr
		}
	}
	if err != nil || w.Folder == nil || w.Folder.Mode != share.Git {
		return w, err
	}
	return clones.For(e.Loop).Find(ctx, w)
}

// recordLinked records that the path of a folder contains a symbolic link, so that the folder stays
// unmounted after the link is removed. It takes the VM's lock and needs no consent.
func (e *Env) recordLinked(ctx context.Context, a share.Attachment) error {
	release, _, err := e.Lock(ctx, a.VM)
	if err != nil {
		return err
	}
	defer release()
	return e.RecordState(a, share.Linked, "store.link:"+share.Token(a.HostPath), "leave folder "+a.HostPath+" unmounted until it is attached again").Do(ctx)
}

func (e *Env) attach(ctx context.Context, o target.FolderOptions) (w *target.Target, f *loop.Facts, isNew bool, err error) {
	if w, err = e.folderTarget(ctx, o, false); err != nil {
		return nil, nil, false, err
	}
	if w.NewVM {
		return nil, nil, false, ui.Refused("VM %q does not exist yet", w.Name).Hint(ui.Cmd("aivm code " + shellescape.Quote(o.Folder)))
	}
	isNew = w.NewFolder || w.NewProtect
	w, f, err = e.Converge(ctx, w.WithGuest())
	return w, f, isNew, err
}
