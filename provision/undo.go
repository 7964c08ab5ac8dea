package provision

import (
	"context"
	"fmt"
	"slices"
	"time"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/provision/share"
)

// undoLimit bounds how long a run that failed goes on with tidying up.
const undoLimit = 20 * time.Second

// letGo takes a folder that was to be attached away from the VM again, after a
// run that failed before it was recorded: guest root can get at what is bound,
// and nothing would say so. It is the one thing of a failed run that is undone.
// f may be nil; with a connection in it the guest is asked to let go first.
// locked says that this run holds the VM's lock. Whatever goes wrong here is
// said beside the error the run ends with.
func (e *Env) letGo(ctx context.Context, w *want, f *facts, locked bool) {
	if w.folder == nil || !w.newFolder {
		return
	}
	a, token := *w.folder, share.Token(w.folder.HostPath)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
	defer cancel()
	if !locked {
		release, _, err := e.lock(ctx, w.name)
		if err != nil {
			return // another run is at work on this VM, perhaps with this folder
		}
		defer release()
	}
	if w.git != nil {
		e.letGoGit(ctx, w)
		return
	}
	err := func() error {
		// Not the store as this run knows it: another may have recorded it.
		store, err := config.Load(e.StorePath)
		if err != nil {
			return err
		}
		hf, err := e.shared(w.name, nil)
		if err != nil {
			return err
		}
		recorded := slices.ContainsFunc(store.Config.VMAttachments(w.name), func(r config.Attachment) bool { return r.HostPath == a.HostPath })
		if recorded || len(hf.Tokens[token]) == 0 {
			return nil
		}
		if f != nil && f.conn != nil {
			// Whether it did shows when the token is taken away.
			_ = releaseInGuest(ctx, f.conn, []share.Attachment{a}, nil)
		}
		p := plan.Plan{Stage: plan.Host}
		if f != nil {
			now := &facts{}
			e.observeLibvirt(ctx, w, now)
			p.Add(e.planUnplug(w, now, a)...)
		}
		op := root.Unbind{VMKey: e.key(w.name), Token: token}
		p.Add(plan.Action{
			ID: "share.unbind:" + token, Why: fmt.Sprintf("take folder %s out of VM %s's reach again", a.HostPath, w.name), Shows: op.Shows(), Root: op,
		})
		_, err = e.run(ctx, p)
		return err
	}()
	if err != nil {
		point := shellQuote(root.ExportRoot(e.key(w.name)) + "/" + token)
		e.UI.Warn("folder %s may still be within reach of VM %s, though it was not attached: %v", a.HostPath, w.name, err)
		e.UI.Warn("to see it: aivm status --vm %s; to take it away: aivm vm down %s, then sudo umount %s", w.name, w.name, point)
	}
}
