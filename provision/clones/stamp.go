package clones

import (
	"context"

	"aivm.dev/aivm/gitsync"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/target"
)

// ObserveQuick observes the repository without starting git, if its stamp is the same as after a
// run with nothing to do.
func (e Part) ObserveQuick(ctx context.Context, w *target.Target, f *loop.Facts) {
	f.Clone.Unchanged = false
	if w.Clone.Strict || w.NewFolder || e.DryRun {
		Observe(ctx, w, f)
		return
	}
	m, err := gitsync.FindRemote(w.Clone.Repo, w.Name, w.Folder.GuestDst)
	if err == nil && m.Present {
		if s, ok := gitsync.Stamp(w.Clone.Repo, m.Name); ok {
			f.Clone.Stamp.Host = s
			if saved, ok := e.State().GitStamp(w.Name, w.Folder.Tag); ok && saved.Host == s {
				f.Clone.Saved = saved
				f.Clone.Unchanged, f.Clone.Remote = true, m
				return
			}
		}
	}
	Observe(ctx, w, f)
}

// Settle observes the repository with git after all if the guest's answer is not the same as at the
// time of the stamp.
func Settle(ctx context.Context, w *target.Target, f *loop.Facts) {
	if w.Clone != nil && f.Clone.Unchanged && f.Clone.Stamp.Guest != f.Clone.Saved.Guest {
		f.Clone.Unchanged = false
		Observe(ctx, w, f)
	}
}

// keepStamp records that there was nothing to do.
func (e Part) keepStamp(w *target.Target, f *loop.Facts) {
	if f.Clone.Unchanged || f.Clone.HadWork || f.Clone.Problem != nil || w.Clone.Strict || w.NewFolder || f.Clone.Host.Err != nil || f.Clone.Stamp.Host == "" || f.Clone.Stamp.Guest == "" {
		return
	}
	e.State().SaveGitStamp(w.Name, w.Folder.Tag, f.Clone.Stamp)
}
