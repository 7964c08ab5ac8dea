package provision

import (
	"context"
	"strings"

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

// Code takes a folder from nothing to an editor opened on it in a VM.
func (e *Env) Code(ctx context.Context, o editors.CodeOptions) (res CodeResult, err error) {
	e.Timing = ui.NewTiming("image", "define", "boot", "share", "ssh", "editor")
	if _, _, err := editors.For(e.Loop).Lookup(o.Editor); err != nil {
		return res, err // asked for by name and missing: before any work
	}
	w, err := e.wantFolder(ctx, o.FolderOptions, true)
	if err != nil {
		return res, err
	}
	found, why, err := editors.For(e.Loop).Choose(o.Editor, w)
	if err != nil {
		return res, err
	}
	if err := editors.For(e.Loop).CheckOptions(w, found, o); err != nil {
		return res, err
	}
	settings.For(e.Loop).Gather(w, o.SyncOptions, found)
	if o.Snapshot {
		if err := e.snapshotFirst(ctx, w); err != nil {
			return res, err
		}
	}
	w.Boot, w.Guest = true, true
	f, err := e.Converge(ctx, w)
	if err != nil {
		return res, err
	}
	defer f.Close()
	folders.For(e.Loop).SayExecuted(w)
	clones.For(e.Loop).InClone(ctx, w, f)
	recipe, err := editor.NewRecipe(w.Name, w.OpenAt, f.Inst.User)
	if err != nil {
		return res, err
	}
	if err := machine.For(e.Loop).CheckAlias(ctx, w, f); err != nil {
		return res, err
	}
	settings.For(e.Loop).Say(w)
	res = CodeResult{
		Schema: 1, VM: w.Name, Alias: w.Name, Address: f.Inst.Address, Folder: w.Folder.HostPath, GuestDst: w.OpenAt,
		Mode: string(w.Folder.Mode), Access: w.Folder.Access, Recipe: recipe,
		Found: found, Why: why, Timing: e.Timing,
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
	case !kind.Here():
		if err := editors.For(e.Loop).Open(ctx, w, f, *found, o); err != nil {
			e.UI.Say("%s", strings.TrimRight(recipe.Text(), "\n"))
			return res, err
		}
		res.Opened = true
	}
	res.Seconds = session.Seconds(e.Timing)
	return res, nil
}

// snapshotFirst keeps the disk of w's VM before `code` goes on; a VM that is
// still to be made has none.
func (e *Env) snapshotFirst(ctx context.Context, w *target.Target) error {
	if w.NewVM {
		e.UI.Say("There is no VM yet, so there is nothing to keep.")
		return nil
	}
	name := ""
	plans := func(d *virt.Domain, f *domain.SnapFacts) ([]plan.Action, error) {
		if name == "" {
			name = f.Stamp("before-code-", e.Now())
		}
		return domain.PlanSnapshot(d, f, name, snapshots.For(e.Loop).Snapshots(ctx))
	}
	if e.DryRun {
		_, d, err := e.Ours(ctx, w.Name)
		if err == nil && d != nil {
			w.First, err = snapshots.For(e.Loop).PlanOnDisk(ctx, w, d, plans)
		}
		return err
	}
	r, err := snapshots.For(e.Loop).OnDisk(ctx, snapshots.SnapshotOptions{VM: w.Name, StayOff: true}, plans)
	if err == nil {
		e.UI.Say("Snapshot %s of VM %s is kept. Not part of it: %s", name, w.Name, strings.Join(snapshots.For(e.Loop).NotInIt(r.W), "; "))
	}
	return err
}
