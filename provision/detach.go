package provision

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/gitsync"
	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/clones"
	"aivm.dev/aivm/provision/folders"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/target"
)

// DetachResult is what `detach --json` prints.
type DetachResult struct {
	Schema  int    `json:"schema"`
	VM      string `json:"vm,omitempty"`
	Folder  string `json:"folder"`
	Mode    string `json:"mode,omitempty"`
	State   string `json:"state"` // "detached", "detaching", "none"
	Changed bool   `json:"changed"`
	// Special lists device nodes, setuid and setgid files that appeared in the folder.
	Special []folders.SpecialFile `json:"special,omitempty"`
	// Clone is the work in the clone of a folder in git mode.
	Clone *gitsync.CloneWork `json:"clone,omitempty"`

	GuestDst string `json:"-"`
	Remote   string `json:"-"` // the clone's name as a git remote; "" if the repository is gone
	// RemoveClone is the command that deletes the clone. CloneIn is set instead if the clone lies in a
	// folder that the VM shares: that folder.
	RemoveClone string `json:"-"`
	CloneIn     string `json:"-"`
}

// Detach unmounts a folder from a VM and removes its record. It works also if the folder no longer
// exists, or the VM is off, deleted or does not answer. The folder itself is not changed.
func (e *Env) Detach(ctx context.Context, o folders.DetachOptions) (DetachResult, error) {
	e.Timing = ui.NewTiming("share", "ssh")
	part := folders.For(e.Loop)
	l, err := part.FindDetachment(ctx, o)
	if err != nil {
		return notAttached(err)
	}
	var clone *gitsync.CloneWork
	if l.Rec {
		if err := config.CheckWritable(e.StorePath); err != nil {
			return DetachResult{}, err
		}
		if clone, err = clones.For(e.Loop).BeforeDetach(ctx, l.W, l.Att); err != nil {
			return DetachResult{}, err
		}
	}
	var f *loop.Facts
	var attached time.Time
	state, remoteName := "detached", ""
	vm := l.W.Name
	_, err = e.RunJob(ctx, loop.Job{
		VM: func() string { return vm }, LockFirst: true, // no question is asked, and the guest is probed only once
		Plan: func(ctx context.Context) (p plan.Plan, err error) {
			if !e.DryRun {
				// Another run may have changed the attachment while this one waited.
				if l, err = part.FindDetachment(ctx, o); err != nil {
					return p, err
				}
			}
			if f, err = part.ObserveDetach(ctx, l); err != nil {
				return p, err
			}
			var unremote []plan.Action
			if l.Rec {
				m := clones.RemoteOf(l.Att)
				if m != nil {
					remoteName = m.Name
				}
				unremote = clones.PlanRemoveRemote(l.Att, m, plan.None)
			}
			attached = e.State().AttachedAt(l.Att)
			return part.PlanDetach(l, f, unremote), nil
		},
		Dry: func(p plan.Plan) error {
			d := e.Dry("detach", l.W.Name, p)
			if clone != nil {
				d.Clones = append(d.Clones, *clone)
			}
			return d
		},
		CloseFacts: func() { f.Close() },
		Failed: func(ctx context.Context, p plan.Plan, _ bool, err error) error {
			if err = part.RetryUnbind(ctx, l, f, p, err); err != nil {
				state = "detaching"
				err = part.EndFailedDetach(ctx, l, f, o, err)
			}
			if err != nil {
				f.Close()
			}
			return err
		},
		Then: func(ctx context.Context, _, _ bool) error {
			defer f.Close()
			if state == "detaching" {
				return nil
			}
			if f.CanProbeFolders() {
				// Mount again what was below it in the guest and was unmounted with it.
				if err := e.GuestStage(ctx, l.W, f); err != nil {
					e.WarnOnce(err.Error())
				}
			}
			if l.Att.Exposes() {
				l.Special = part.SearchDetached(ctx, l.Att, attached)
			}
			return nil
		},
	})
	if err != nil {
		return notAttached(err)
	}
	a := l.Att
	r := DetachResult{
		Schema: 1, VM: l.W.Name, Folder: a.HostPath, Mode: string(a.Mode), State: state, Changed: true, Special: l.Special, Clone: clone,
		GuestDst: a.GuestDst, Remote: remoteName,
	}
	if clone != nil {
		r.RemoveClone, r.CloneIn = clones.For(e.Loop).RemoveCommand(l.W, a)
	}
	return r, nil
}

// notAttached returns the result "none" if the error is that the folder is not attached; else it
// returns the error.
func notAttached(err error) (DetachResult, error) {
	var none *folders.NotAttachedError
	if !errors.As(err, &none) {
		return DetachResult{}, err
	}
	return DetachResult{Schema: 1, VM: none.VM, Folder: none.Folder, State: "none"}, nil
}

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
