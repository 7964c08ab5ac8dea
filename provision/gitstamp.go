package provision

import (
	"context"

	"aivm.dev/aivm/gitsync"
)

// observeGitQuick is observeGit without a process, if the repository is as it
// was when there was nothing to do.
func (e *Env) observeGitQuick(ctx context.Context, w *want) {
	w.git.quick = false
	if w.git.strict || w.newFolder || e.DryRun {
		w.observeGit(ctx)
		return
	}
	m, err := gitsync.FindRemote(w.git.repo, w.name, w.folder.GuestDst)
	if err == nil && m.Present {
		if s, ok := gitsync.Stamp(w.git.repo, m.Name); ok {
			w.git.stamp.Host = s
			if saved, ok := e.state().GitStamp(w.name, w.folder.Tag); ok && saved.Host == s {
				w.git.saved = saved
				w.git.quick, w.git.remote = true, m
				return
			}
		}
	}
	w.observeGit(ctx)
}

// settleGit decides, once the guest has answered, whether git has to be asked
// after all.
func (w *want) settleGit(ctx context.Context) {
	if w.git != nil && w.git.quick && w.git.stamp.Guest != w.git.saved.Guest {
		w.git.quick = false
		w.observeGit(ctx)
	}
}

// keepStamp writes down that there was nothing to do.
func (e *Env) keepStamp(w *want) {
	if w.git.quick || w.git.moved || w.git.problem != nil || w.git.strict || w.newFolder || w.git.host.Err != nil || w.git.stamp.Host == "" || w.git.stamp.Guest == "" {
		return
	}
	e.state().KeepGitStamp(w.name, w.folder.Tag, w.git.stamp)
}
