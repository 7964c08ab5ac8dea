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

// letGo takes a folder that was to be attached away from the VM again, after a
// run that failed before it was recorded: guest root can get at what is bound,
// and nothing would say so. It is the one thing of a failed run that is undone.
// f may be nil; with a connection in it the guest is asked to let go first.
// locked says that this run holds the VM's lock. Whatever goes wrong here is
// said beside the error the run ends with.
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
			return // another run is at work on this VM, perhaps with this folder
		}
		defer release()
	}
	if w.Clone != nil {
		clones.For(e.Loop).RemoveNewRemote(ctx, w, f)
		return
	}
	err := func() error {
		// Not the store as this run knows it: another may have recorded it.
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
			// Whether it did shows when the token is taken away.
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
			ID: "share.unbind:" + token, Why: fmt.Sprintf("take folder %s out of VM %s's reach again", a.HostPath, w.Name), Shows: op.Shows(), Root: op,
		})
		_, err = e.Run(ctx, p)
		return err
	}()
	if err != nil {
		point := shellescape.Quote(root.ExportRoot(e.Key(w.Name)) + "/" + token)
		e.UI.Warn("folder %s may still be within reach of VM %s, though it was not attached: %v", a.HostPath, w.Name, err)
		e.UI.Warn("to see it: aivm status --vm %s; to take it away: aivm vm down %s, then sudo umount %s", w.Name, w.Name, point)
	}
}
