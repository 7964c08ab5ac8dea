package clones

import (
	"context"
	"errors"
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
	"aivm.dev/aivm/provision/session"
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

// PlanGuest plans the actions that update the clone and the host's remote-tracking refs.
func (e Part) PlanGuest(w *target.Target, f *loop.Facts) ([]plan.Action, error) {
	if w.Clone == nil {
		return nil, nil
	}
	g := &f.Clone.Guest
	if err := g.Usable(w.Name, w.Folder.GuestDst); err != nil {
		return nil, err
	}
	if f.Clone.Unchanged {
		return nil, nil
	}
	if err := f.Clone.Host.Err; err != nil {
		if w.NewFolder || w.Clone.Strict || g.State != gitsync.Clone {
			return nil, err
		}
		return nil, nil // the clone can be used; End reports the error
	}
	h := &f.Clone.Host.Value
	var out []plan.Action
	add := func(id, why, shows string, do func(context.Context, gitsync.Peer) error) {
		out = append(out, plan.Action{
			ID: id + ":" + w.Folder.Tag, Why: why, Shows: []string{shows}, Timing: "share",
			Do: func(ctx context.Context) error {
				f.Clone.HadWork = true
				if err := e.beginGit(ctx, w, f); err != nil {
					return err
				}
				return do(ctx, e.peer(ctx, w, f))
			},
		})
	}
	dst := shellescape.Quote(w.Folder.GuestDst)
	if g.State != gitsync.Clone {
		add("git.init", fmt.Sprintf("create a clone of %s at %s in VM %s", w.Folder.HostPath, w.Folder.GuestDst, w.Name), "git init "+dst+" (in the guest)",
			func(ctx context.Context, p gitsync.Peer) error {
				if g.State == gitsync.Clone {
					return nil
				}
				kept, err := gitsync.KeepTracked(ctx, *h)
				if err != nil {
					return err
				}
				if len(kept) > 0 {
					e.UI.Say("Commits of an earlier clone in VM %s that are on no branch of this machine were kept as %s", w.Name, ui.Some(kept, 10))
				}
				f.Clone.Result.Cloned = true
				return gitsync.Init(ctx, p, *h, g)
			})
	}
	news := gitsync.MovedBranches(*h, *g)
	if (w.Clone.Fetch || w.Clone.Push && gitsync.Relate(*h, *g) == gitsync.Unseen) && len(news) > 0 {
		add("git.fetch", fmt.Sprintf("fetch commits from VM %s", w.Name), "git fetch "+f.Clone.Remote.Name, func(ctx context.Context, p gitsync.Peer) error { return e.gitFetch(ctx, w, f, p) })
	}
	ups, _ := gitsync.Updates(*h, *g)
	if w.Clone.Push && (len(ups) > 0 || g.State != gitsync.Clone || gitsync.Relate(*h, *g) == gitsync.Unseen || gitsync.Relate(*h, *g) == gitsync.Diverged) {
		add("git.push", fmt.Sprintf("push branch %s to VM %s", h.Branch, w.Name), "git push "+f.Clone.Remote.Name+" "+shellescape.Quote(h.Branch),
			func(ctx context.Context, p gitsync.Peer) error { return e.gitPush(ctx, w, f, p) })
	}
	if w.Clone.Push && gitsync.ShouldSwitch(*h, *g) {
		add("git.switch", fmt.Sprintf("check out branch %s in VM %s", h.Branch, w.Name), "git checkout "+shellescape.Quote(h.Branch)+" (in the guest)",
			func(ctx context.Context, p gitsync.Peer) error { return e.gitSwitch(ctx, w, f, p) })
	}
	if w.Clone.Wip {
		add("git.wip", fmt.Sprintf("send uncommitted files to VM %s", w.Name), "git push "+f.Clone.Remote.Name+" refs/aivm/wip/"+shellescape.Quote(h.Branch),
			func(ctx context.Context, p gitsync.Peer) error {
				if g.Heads[h.Branch] != h.Head {
					return ui.Refused("branch %s of VM %s has other commits than this machine, so uncommitted files cannot be sent", h.Branch, w.Name).
						Hint(ui.CmdFor("pull the VM's commits first", "aivm git pull "+shellescape.Quote(w.Folder.HostPath)))
				}
				outcome, err := gitsync.SendUncommitted(ctx, p, *h, g)
				f.Clone.Result.Wip = outcome
				return err
			})
	}
	return out, nil
}

func (e Part) gitFetch(ctx context.Context, w *target.Target, f *loop.Facts, p gitsync.Peer) error {
	h := &f.Clone.Host.Value
	moved, notes, err := gitsync.Fetch(ctx, p, h, f.Clone.Guest)
	for _, n := range notes {
		e.WarnOnce(n)
	}
	f.Clone.Result.Fetched = moved
	return tolerate(ctx, w, f, err)
}

// tolerate turns an error between the two repositories into a warning, unless transferring commits
// is the purpose of the command: nothing a guest reports or sends may keep the user from entering
// the VM to fix it.
func tolerate(ctx context.Context, w *target.Target, f *loop.Facts, err error) error {
	if err == nil || w.Clone.Strict || w.NewFolder || ctx.Err() != nil || f.Clone.Guest.State != gitsync.Clone || errors.Is(err, guest.ErrLost) {
		return err
	}
	f.Clone.Problem = errors.Join(f.Clone.Problem, err)
	return nil
}

func (e Part) gitPush(ctx context.Context, w *target.Target, f *loop.Facts, p gitsync.Peer) error {
	h := &f.Clone.Host.Value
	moves := gitsync.Relate(*h, f.Clone.Guest) == gitsync.HostAhead || gitsync.Relate(*h, f.Clone.Guest) == gitsync.Missing
	if moves {
		// git-lfs objects are sent before the commits that refer to them.
		missing, err := gitsync.CarryLFS(ctx, p, *h)
		e.sayMissing(w, missing)
		if err != nil {
			return tolerate(ctx, w, f, err)
		}
	}
	sent, problem, err := gitsync.PushBranch(ctx, p, h, &f.Clone.Guest)
	f.Clone.Result.Sent = sent
	if moves && problem == nil && err == nil {
		_, missing, serr := gitsync.CarrySubmodules(ctx, p, *h)
		e.sayMissing(w, missing)
		err = serr
	}
	if problem != nil && w.Clone.Strict && err == nil {
		return problem
	}
	if problem != nil {
		f.Clone.Problem = errors.Join(f.Clone.Problem, problem)
	}
	return tolerate(ctx, w, f, err)
}

// sayMissing warns about parts of the repository that its clone lacks.
func (e Part) sayMissing(w *target.Target, missing []string) {
	for _, m := range missing {
		e.WarnOnce("the clone in VM " + w.Name + " is not complete: " + m)
	}
}

func (e Part) gitSwitch(ctx context.Context, w *target.Target, f *loop.Facts, p gitsync.Peer) error {
	h := &f.Clone.Host.Value
	if f.Clone.Guest.Heads[h.Branch] == "" {
		return nil // the push failed, and that was reported
	}
	done, err := gitsync.Switch(ctx, p, *h, &f.Clone.Guest)
	if err == nil && !done {
		e.WarnOnce(gitsync.StaysOnBranch(p, *h, f.Clone.Guest))
	}
	return tolerate(ctx, w, f, err)
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

// End releases the repository's lock and reports what prevented the transfer of commits: as an
// error if that was the purpose of the command, otherwise as a warning, since the folder can be
// used anyway.
func (e Part) End(w *target.Target, f *loop.Facts) error {
	if w.Clone == nil {
		return nil
	}
	if f.Clone.Release != nil {
		f.Clone.Release()
		f.Clone.Release = nil
	}
	e.keepStamp(w, f)
	problem := f.Clone.Problem
	if problem == nil && !f.Clone.Unchanged && !w.Clone.Strict && f.Clone.Guest.State == gitsync.Clone {
		problem = f.Clone.Host.Err // nothing was planned because of it
	}
	err := session.UnwrapSingle(problem)
	if err == nil || w.Clone.Strict {
		return err
	}
	e.UI.Warn("%v", err)
	var ue *ui.Error
	if errors.As(err, &ue) {
		for _, h := range ue.HintLines() {
			e.UI.Warn("  %s", h)
		}
	}
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
