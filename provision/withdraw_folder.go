package provision

import (
	"context"
	"fmt"
	"slices"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/provision/clones"
	"aivm.dev/aivm/provision/folders"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/target"
)

// withdrawFolder unmounts a new folder from the VM after a run that failed before the folder was
// recorded: root in the guest can read what is mounted in the export root, and without a record
// nothing would show that. It is the only step of a failed run that is undone. f may be nil; if it
// has a connection, the folder is unmounted in the guest first. locked: this run holds the VM's
// lock. An error here is printed as a warning, in addition to the run's own error.
func (e *Env) withdrawFolder(ctx context.Context, w *target.Target, f *loop.Facts, locked bool) {
	if w.Folder == nil || !w.NewFolder {
		return
	}
	a, token := *w.Folder, share.Token(w.Folder.HostPath)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), folders.CleanupLimit)
	defer cancel()
	if !locked {
		release, _, err := e.Lock(ctx, w.Name)
		if err != nil {
			return // another run works on this VM, perhaps with this folder
		}
		defer release()
	}
	if w.Clone != nil {
		clones.For(e.Loop).RemoveNewRemote(ctx, w, f)
		return
	}
	err := func() error {
		// Read the config again: another run may have recorded the folder.
		store, err := config.Load(e.StorePath)
		if err != nil {
			return err
		}
		hf, err := e.Shared(w.Name, nil)
		if err != nil {
			return err
		}
		recorded := slices.ContainsFunc(store.Config.VMAttachments(w.Name), func(r config.Attachment) bool { return r.HostPath == a.HostPath })
		if recorded || len(hf.Tokens[token]) == 0 {
			return nil
		}
		if f != nil && f.Conn != nil {
			// If that failed, the unmount below fails.
			_ = folders.ReleaseInGuest(ctx, f.Conn, []share.Attachment{a}, nil)
		}
		p := plan.Plan{Stage: plan.Host}
		if f != nil {
			now := &loop.Facts{}
			e.ObserveLibvirt(ctx, w, now)
			p.Add(folders.For(e.Loop).PlanDetachDevice(w, now, a)...)
		}
		op := root.Unbind{VMKey: e.Key(w.Name), Token: token}
		p.Add(plan.Action{
			ID: "share.unbind:" + token, Why: fmt.Sprintf("unmount folder %s from VM %s again", a.HostPath, w.Name), Shows: op.Shows(), Root: op,
		})
		_, err = e.Run(ctx, p)
		return err
	}()
	if err != nil {
		point := shellescape.Quote(root.ExportRoot(e.Key(w.Name)) + "/" + token)
		e.UI.Warn("VM %[2]s may still have access to folder %[1]s, although it was not attached: %[3]v", a.HostPath, w.Name, err)
		e.UI.Warn("to check: aivm status --vm %s; to unmount it: aivm vm down %s, then sudo umount %s", w.Name, w.Name, point)
	}
}
