package clones

import (
	"context"

	"aivm.dev/aivm/gitsync"
	"aivm.dev/aivm/provision/target"
)

// ObserveQuick is Observe without a process, if the repository is as it
// was when there was nothing to do.
func (e Part) ObserveQuick(ctx context.Context, w *target.Target) {
	w.Git.Quick = false
	if w.Git.Strict || w.NewFolder || e.DryRun {
		Observe(ctx, w)
		return
	}
	m, err := gitsync.FindRemote(w.Git.Repo, w.Name, w.Folder.GuestDst)
	if err == nil && m.Present {
		if s, ok := gitsync.Stamp(w.Git.Repo, m.Name); ok {
			w.Git.Stamp.Host = s
			if saved, ok := e.State().GitStamp(w.Name, w.Folder.Tag); ok && saved.Host == s {
				w.Git.Saved = saved
				w.Git.Quick, w.Git.Remote = true, m
				return
			}
		}
	}
	Observe(ctx, w)
}

// Settle decides, once the guest has answered, whether git has to be asked
// after all.
func Settle(ctx context.Context, w *target.Target) {
	if w.Git != nil && w.Git.Quick && w.Git.Stamp.Guest != w.Git.Saved.Guest {
		w.Git.Quick = false
		Observe(ctx, w)
	}
}

// keepStamp writes down that there was nothing to do.
func (e Part) keepStamp(w *target.Target) {
	if w.Git.Quick || w.Git.Moved || w.Git.Problem != nil || w.Git.Strict || w.NewFolder || w.Git.Host.Err != nil || w.Git.Stamp.Host == "" || w.Git.Stamp.Guest == "" {
		return
	}
	e.State().KeepGitStamp(w.Name, w.Folder.Tag, w.Git.Stamp)
}
