package provision

import (
	"context"
	"strings"
	"time"

	"aivm.dev/aivm/internal/editor"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/clones"
	"aivm.dev/aivm/provision/domain"
	"aivm.dev/aivm/provision/editors"
	"aivm.dev/aivm/provision/folders"
	"aivm.dev/aivm/provision/machine"
	"aivm.dev/aivm/provision/session"
	"aivm.dev/aivm/provision/settings"
	"aivm.dev/aivm/provision/snapshots"
	"aivm.dev/aivm/provision/target"
)

// Code opens an editor on a folder in a VM. It creates and starts the VM and attaches the folder if
// necessary.
func (e *Env) Code(ctx context.Context, o editors.CodeOptions) (res CodeResult, err error) {
	e.Timing = ui.NewTiming("image", "define", "boot", "share", "ssh", "editor")
	if _, _, err := editors.For(e.Loop).Lookup(o.Editor); err != nil {
		return res, err // a named editor that is missing: refuse before any work
	}
	w, err := e.folderTarget(ctx, o.FolderOptions, true)
	if err != nil {
		return res, err
	}
	found, why, err := editors.For(e.Loop).Choose(o.Editor, w)
	if err != nil {
		return res, err
	}
	if w, err = editors.For(e.Loop).WithEditor(w, found, o); err != nil {
		return res, err
	}
	if found == nil {
		w = w.WithoutEditor(editors.For(e.Loop).NoEditor(why))
	}
	w = settings.For(e.Loop).Gather(w, o.SyncOptions, found, false)
	var first plan.Plan
	if o.Snapshot {
		disk, err := e.snapshotBeforeCode(ctx, w)
		if err != nil {
			return res, err
		}
		if first, err = e.planSnapshotBefore(ctx, disk); err != nil {
			return res, err
		}
	}
	w, f, err := e.converge(ctx, w.Started(), first)
	if err != nil {
		return res, err
	}
	defer f.Close()
	folders.For(e.Loop).ReportHostExecuted(w, f)
	w = clones.For(e.Loop).InClone(ctx, w, f)
	recipe, err := editor.NewRecipe(w.Name, w.OpenAt, f.Inst.User)
	if err != nil {
		return res, err
	}
	if err := machine.For(e.Loop).CheckAlias(ctx, w, f, e.aliasUser(found, o)); err != nil {
		return res, err
	}
	settings.For(e.Loop).Say(f)
	res = CodeResult{
		Schema: 1, VM: w.Name, Alias: w.Name, Address: f.Inst.Address, Folder: w.Folder.HostPath, GuestDst: w.OpenAt,
		Mode: string(w.Folder.Mode), Access: w.Folder.Access, Recipe: recipe,
		GitProblem: clones.ProblemOf(w, f),
		Found:      found, Why: why, Timing: e.Timing,
	}
	kind := editor.Print
	if found != nil {
		kind = found.Editor.Kind
		res.Editor = found.Editor.ID
	}
	switch {
	case kind == editor.Browser:
		return res, editors.For(e.Loop).Serve(ctx, w, f, o, res)
	case kind == editor.Terminal:
		e.UI.Say("%s", e.Timing.Line())
		return res, e.remoteShell(ctx, w, f)
	case !kind.NeedsNoLauncher():
		if err := editors.For(e.Loop).Open(ctx, w, f, *found, o); err != nil {
			e.UI.Say("%s", strings.TrimRight(recipe.Text(), "\n"))
			return res, err
		}
		res.Opened = true
	}
	res.Seconds = session.Seconds(e.Timing)
	return res, nil
}

// aliasUser returns the editor, if it connects over the alias with ssh; nil otherwise.
func (e *Env) aliasUser(found *editor.Found, o editors.CodeOptions) *machine.AliasUser {
	if found == nil || !found.Editor.OpenSSH || found.Editor.Kind.NeedsNoLauncher() {
		return nil
	}
	file, _ := editors.For(e.Loop).ConfigFile(*found, o.SyncOptions)
	return &machine.AliasUser{Name: found.Editor.Name, ConfigFile: file}
}

// snapshotBeforeCode takes a snapshot of the VM's disk before `code` continues; nothing for a VM
// that does not exist yet. A dry run takes none and gets the diskState for planSnapshotBefore.
func (e *Env) snapshotBeforeCode(ctx context.Context, w *target.Target) (dryDisk *diskState, err error) {
	if w.NewVM {
		e.UI.Say("There is no VM yet, so no snapshot is taken.")
		return nil, nil
	}
	part := snapshots.For(e.Loop)
	if e.DryRun {
		_, d, err := e.OwnVM(ctx, w.Name)
		if err != nil || d == nil {
			return nil, err
		}
		f, err := part.ObserveSnapshots(ctx, d)
		if err != nil {
			return nil, err
		}
		return &diskState{d, f, e.OpenSessions(w.Name), e.Now()}, nil
	}
	name := ""
	r, err := part.OnDisk(ctx, snapshots.SnapshotOptions{VM: w.Name, StayOff: true, StartsAfter: true}, func(d *virt.Domain, f *domain.SnapFacts) ([]plan.Action, error) {
		if name == "" {
			name = f.NewName(snapshotPrefix, e.Now())
		}
		return domain.PlanSnapshot(d, f, name, part.Snapshots(ctx))
	})
	if err == nil {
		e.UI.Say("Snapshot %s of VM %s was taken. It does not include: %s", name, w.Name, strings.Join(part.NotInIt(r.W), "; "))
	}
	return nil, err
}

// snapshotPrefix begins the names of these snapshots.
const snapshotPrefix = "before-code-"

// diskState holds a VM's domain and its snapshots at a point in time.
type diskState struct {
	domain *virt.Domain
	facts  *domain.SnapFacts
	open   []string // the sessions that end when the VM is stopped
	at     time.Time
}

// planSnapshotBefore plans the snapshot before `code`, for a dry run to show; disk may be nil.
func (e *Env) planSnapshotBefore(ctx context.Context, disk *diskState) (plan.Plan, error) {
	if disk == nil {
		return plan.Plan{}, nil
	}
	part := snapshots.For(e.Loop)
	as, err := domain.PlanSnapshot(disk.domain, disk.facts, disk.facts.NewName(snapshotPrefix, disk.at), part.Snapshots(ctx))
	return part.PlanOnDisk(ctx, disk.domain, disk.open, as), err
}
