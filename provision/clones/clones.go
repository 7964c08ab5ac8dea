package clones

import (
	"context"
	"fmt"
	"path/filepath"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/gitsync"
	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/lockfile"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/target"
)

// Find returns w with the repository of its folder in git mode. It runs nothing of the repository
// before checking that no guest can write it.
func (e Part) Find(ctx context.Context, w *target.Target) (*target.Target, error) {
	a := *w.Folder
	repo, err := gitsync.Find(a.HostPath)
	if err != nil {
		return w, err
	}
	if repo.Top != a.HostPath {
		return w, ui.Refused("%s is no longer the top of a git repository, which is now %s", ui.Clean(a.HostPath), ui.Clean(repo.Top)).
			Hint(ui.Cmd("aivm detach " + shellescape.Quote(a.HostPath) + " --vm " + a.VM))
	}
	writable, err := e.guestWritable()
	if err != nil {
		return w, err
	}
	if err := repo.Guarded(writable); err != nil {
		return w, err
	}
	m, err := gitsync.FindRemote(repo, w.Name, a.GuestDst)
	if err != nil {
		return w, err
	}
	if w.NewFolder {
		// Create nothing for a repository that cannot be pushed.
		if _, err := gitsync.Observe(ctx, repo, m.Name); err != nil {
			return w, err
		}
	}
	return w.WithClone(target.Clone{Repo: repo, Push: true, Fetch: true, Fresh: !m.Present}), nil
}

// guestWritable returns the folders on the host that a guest can write, with the VM that can: those
// recorded as attached, and those mounted for a VM whether recorded or not.
func (e Part) guestWritable() (map[string]string, error) {
	store, err := e.Load()
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	vms := map[string]bool{}
	for _, vm := range store.Config.VMNames() {
		vms[vm] = true
	}
	for _, r := range store.Config.Attachments {
		a := share.Recorded(r)
		vms[a.VM] = true
		if a.Mode != share.Git && a.Access != string(share.ReadOnly) {
			out[filepath.Clean(a.HostPath)] = a.VM
		}
	}
	for vm := range vms {
		hf, err := e.Shared(vm, nil)
		if err != nil {
			return nil, err
		}
		for _, r := range hf.ExportedFolders() {
			if !r.RO {
				out[r.Path] = vm
			}
		}
	}
	return out, nil
}

// Observe reads the state of the repository while the guest's probe runs.
func Observe(ctx context.Context, w *target.Target, f *loop.Facts) {
	// Find the remote again each time: the VM's name may have changed.
	m, err := gitsync.FindRemote(w.Clone.Repo, w.Name, w.Folder.GuestDst)
	if err != nil {
		f.Clone.Host = plan.Unknown[gitsync.Host](err)
		return
	}
	h, err := gitsync.Observe(ctx, w.Clone.Repo, m.Name)
	f.Clone.Remote, f.Clone.Host = m, plan.Known[gitsync.Host]{Value: h, Err: err}
}

// Probe returns the clone's part of the probe script.
func Probe(w *target.Target) guest.Probe {
	return guest.Probe{Name: "git", Script: gitsync.GuestProbe(w.Folder.GuestDst)}
}

// PlanHost adds the remote to the repository's configuration.
func (e Part) PlanHost(w *target.Target, f *loop.Facts) ([]plan.Action, error) {
	if w.Clone == nil {
		return nil, nil
	}
	if err := f.Clone.Host.Err; err != nil && w.NewFolder {
		return nil, err
	}
	m := f.Clone.Remote
	if m.Present || m.Path() == "" {
		return nil, nil
	}
	consent := plan.None
	if w.NewFolder {
		consent = plan.Ask
	}
	return []plan.Action{{
		ID: "git.remote:" + w.Folder.Tag, Why: fmt.Sprintf("add git remote %q for the clone in VM %s to repository %s", m.Name, w.Name, w.Folder.HostPath),
		Shows: []string{"write " + m.Path()}, Diff: m.AddDiff(), Consent: consent, Timing: "share",
		Do: func(ctx context.Context) error {
			if err := m.Add(ctx); err != nil {
				return err
			}
			f.Clone.Remote.Present = true
			return nil
		},
	}}, nil
}

func (e Part) peer(ctx context.Context, w *target.Target, f *loop.Facts) gitsync.Peer {
	p := gitsync.Peer{Conn: f.Conn, VM: w.Name, Dir: w.Folder.GuestDst, Limits: w.Clone.Limits, RemoteIsNew: w.Clone.Fresh, Progress: func(d string, fr float64) { plan.Report(ctx, d, fr) }}
	if e.Verbose > 0 {
		p.Note = func(s string) { e.UI.Say("git: %s", s) }
	}
	return p
}

// beginGit takes the repository's lock, once per run: only one run at a time uses the quarantine
// and the refs. After waiting for the lock, it observes both sides again.
func (e Part) beginGit(ctx context.Context, w *target.Target, f *loop.Facts) error {
	if f.Clone.Release != nil {
		return nil
	}
	path := e.State().RepositoryLockPath(share.Token(w.Clone.Repo.CommonDir))
	release, waited, err := lockfile.Lock(ctx, path, e.Rerun, func(holder string) func(error) {
		plan.Report(ctx, "waiting for "+holder+", which uses this repository", -1)
		return func(error) {}
	})
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		return ui.Failed("locking the repository %s: %w", w.Clone.Repo.Top, err).Hint(ui.Cmd("ls -l " + shellescape.Quote(path)))
	}
	if waited {
		Observe(ctx, w, f)
		if f.Clone.Host.Err != nil && !(w.Clone.AnyHead && f.Clone.Host.Value.NoBranch) {
			release()
			return f.Clone.Host.Err
		}
		out, err := f.Conn.Probe(ctx, []guest.Probe{Probe(w)})
		if err == nil {
			f.Clone.Guest, err = gitsync.ParseGuest(out["git"])
		}
		if err != nil {
			release()
			return err
		}
	}
	f.Clone.Release = release
	return nil
}

// RemoveNewRemote removes the remote after a run that failed before the folder was recorded.
func (e Part) RemoveNewRemote(ctx context.Context, w *target.Target, f *loop.Facts) {
	if w.Clone == nil {
		return
	}
	if f != nil && f.Clone.Release != nil {
		f.Clone.Release()
		f.Clone.Release = nil
	}
	m, err := gitsync.FindRemote(w.Clone.Repo, w.Name, w.Folder.GuestDst)
	if err != nil || !m.Present {
		return
	}
	// Load the config again: another run may have recorded the folder.
	store, err := config.Load(e.StorePath)
	if err == nil {
		if _, ok := store.Config.FindAttachment(w.Folder.HostPath, w.Name); ok {
			return
		}
		_, err = m.Remove(ctx)
	}
	if err != nil {
		e.UI.Warn("removing the remote %s from %s failed: %v", m.Name, m.Path(), err)
	}
}

// RemoteOf finds the remote of a detached folder in the repository's configuration. It returns nil
// if there is none or the repository is gone.
func RemoteOf(a share.Attachment) *gitsync.Remote {
	if a.Mode != share.Git {
		return nil
	}
	repo, err := gitsync.Find(a.HostPath)
	if err != nil || repo.Top != filepath.Clean(a.HostPath) {
		return nil
	}
	m, err := gitsync.FindRemote(repo, a.VM, a.GuestDst)
	if err != nil {
		return nil
	}
	return &m
}

// PlanRemoveRemote plans the removal of m, the remote of a, from the repository's configuration.
func PlanRemoveRemote(a share.Attachment, m *gitsync.Remote, consent plan.Consent) []plan.Action {
	if m == nil || m.RemoveDiff() == "" {
		return nil
	}
	return []plan.Action{{
		ID: "git.unremote:" + a.Tag, Why: fmt.Sprintf("remove git remote %q from repository %s", m.Name, a.HostPath), Consent: consent,
		Shows: []string{"write " + m.Path()}, Diff: m.RemoveDiff(),
		Do: func(ctx context.Context) error {
			_, err := m.Remove(ctx)
			return err
		},
	}}
}

// InClone returns w opened at the top of the clone if the requested subfolder is not in it, because
// it is ignored or has no committed files.
func (e Part) InClone(ctx context.Context, w *target.Target, f *loop.Facts) *target.Target {
	if w.Clone == nil || w.OpenAt == w.Folder.GuestDst || f.Conn == nil {
		return w
	}
	code, err := f.Conn.Run(ctx, guest.Cmd{Argv: []string{"test", "-d", w.OpenAt}})
	if err == nil && code != 0 {
		e.UI.Warn("%s is not in the clone, since it has no committed files; opening %s instead", w.OpenAt, w.Folder.GuestDst)
		return w.OpenedAt(w.Folder.GuestDst)
	}
	return w
}
