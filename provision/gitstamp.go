package provision

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"

	"aivm.dev/aivm/gitsync"
)

// gitStamp is how both sides were when a look found nothing to do. It only
// saves looks: without it, or with one that does not fit, git is asked.
type gitStamp struct {
	Host  string `json:"host"`
	Guest string `json:"guest"`
}

func (e *Env) gitStampPath(vm, tag string) string {
	return filepath.Join(e.SSH.VMDir(vm), "git-"+tag+".json")
}

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
			if b, err := os.ReadFile(e.gitStampPath(w.name, w.folder.Tag)); err == nil && json.Unmarshal(b, &w.git.saved) == nil && w.git.saved.Host == s {
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
	if b, err := json.Marshal(w.git.stamp); err == nil {
		_ = renameio.WriteFile(e.gitStampPath(w.name, w.folder.Tag), b, 0o600)
	}
}

// forgetStamps removes those of a VM that is gone.
func (e *Env) forgetStamps(vm string) {
	_ = os.Remove(e.settingsStampPath(vm))
	l, _ := filepath.Glob(filepath.Join(e.SSH.VMDir(vm), "git-*.json"))
	for _, f := range l {
		_ = os.Remove(f)
	}
}
