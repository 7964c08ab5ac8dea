package provision

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"aivm.dev/aivm/gitsync"
	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/lockfile"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/state"
)

// gitWant is a folder in mode git, as far as it is known before the guest is
// asked.
type gitWant struct {
	repo   gitsync.Repo
	remote gitsync.Remote
	host   plan.Known[gitsync.Host]
	strict bool // what keeps commits from moving is an error and not a remark
	fresh  bool // the remote is not, or was not, in the repository's configuration
	// anyHead says that the branch checked out here does not matter.
	anyHead bool
	push    bool
	fetch   bool
	limits  gitsync.Limits
	wip     bool // the uncommitted state goes along

	quick        bool // both sides are as they were when there was nothing to do
	moved        bool // there was something to do
	stamp, saved state.GitStamp

	guest   gitsync.Guest
	problem error
	result  gitMoves
	release func()
}

// gitMoves is what a run moved.
type gitMoves struct {
	Cloned  bool
	Fetched []gitsync.Fetched
	Sent    gitsync.Sent
	Wip     string // what became of the uncommitted state
}

// wantGit looks at the repository of a folder in mode git. Nothing of it is run
// before it is sure that no guest can write it.
func (e *Env) wantGit(ctx context.Context, w *want) error {
	a := *w.folder
	repo, err := gitsync.Find(a.HostPath)
	if err != nil {
		return err
	}
	if repo.Top != a.HostPath {
		return ui.Refused("%s is no git repository any more; %s around it is", ui.Clean(a.HostPath), ui.Clean(repo.Top)).
			Hint("aivm detach " + shellQuote(a.HostPath) + " --vm " + a.VM)
	}
	writable, err := e.guestWritable()
	if err != nil {
		return err
	}
	if err := repo.Guarded(writable); err != nil {
		return err
	}
	w.git = &gitWant{repo: repo, push: true, fetch: true}
	if w.git.remote, err = gitsync.FindRemote(repo, w.name, a.GuestDst); err != nil {
		return err
	}
	w.git.fresh = !w.git.remote.Present
	if w.newFolder {
		// Nothing is made for what cannot be pushed.
		h, err := gitsync.Observe(ctx, repo, w.git.remote.Name)
		if err != nil {
			return err
		}
		w.git.host = plan.Yes(h)
	}
	return nil
}

// guestWritable are the folders of this machine that a guest can write, by the
// VM that can: what is recorded, and what is mounted whatever is recorded.
func (e *Env) guestWritable() (map[string]string, error) {
	store, err := e.load()
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	vms := map[string]bool{}
	for _, vm := range store.Config.VMNames() {
		vms[vm] = true
	}
	for _, r := range store.Config.Attachments {
		a := attachment(r)
		vms[a.VM] = true
		if a.Mode != share.Git && a.Access != string(share.ReadOnly) {
			out[filepath.Clean(a.HostPath)] = a.VM
		}
	}
	for vm := range vms {
		hf, err := e.shared(vm, nil)
		if err != nil {
			return nil, err
		}
		for _, r := range hf.Reached() {
			if !r.RO {
				out[r.Path] = vm
			}
		}
	}
	return out, nil
}

// newGitFolder is the attachment of a folder that is to be attached in mode
// git: the whole repository it lies in.
func (e *Env) newGitFolder(w *want, o FolderOptions, real string) (share.Attachment, error) {
	repo, err := gitsync.Find(real)
	if err != nil {
		return share.Attachment{}, err
	}
	dst := gitsync.DefaultDst(repo.Top, e.Home, w.record.VM.User)
	if o.GuestDst != "" {
		dst = filepath.Clean(o.GuestDst)
	}
	return share.Attachment{HostPath: repo.Top, VM: w.name, Mode: share.Git, Access: string(share.ReadWrite), GuestDst: dst, Tag: share.Token(repo.Top)}, nil
}

// gitAccess refuses an access that says nothing in mode git.
func gitAccess(folder string) error {
	return ui.Refused("--access ro makes no sense with --mode git: the guest has a clone of its own, and writes nothing of %s", ui.Clean(folder)).
		Hint("leave it out: aivm attach "+shellQuote(folder)+" --mode git",
			"or share the files themselves, to be read: aivm attach "+shellQuote(folder)+" --mode shared-root --access ro")
}

// observeGit looks at the repository while the guest is asked.
func (w *want) observeGit(ctx context.Context) {
	// Anew each time: the VM's name may have changed since.
	m, err := gitsync.FindRemote(w.git.repo, w.name, w.folder.GuestDst)
	if err != nil {
		w.git.host = plan.Unknown[gitsync.Host](err)
		return
	}
	h, err := gitsync.Observe(ctx, w.git.repo, m.Name)
	w.git.remote, w.git.host = m, plan.Known[gitsync.Host]{Value: h, Err: err}
}

func (w *want) gitProbe() guest.Probe {
	return guest.Probe{Name: "git", Script: gitsync.GuestProbe(w.folder.GuestDst)}
}

// planGitHost adds the remote to the repository's configuration.
func (e *Env) planGitHost(p *plan.Plan, w *want) error {
	if w.git == nil {
		return nil
	}
	if err := w.git.host.Err; err != nil && w.newFolder {
		return err
	}
	m := w.git.remote
	if m.Present || m.Path() == "" {
		return nil
	}
	consent := plan.None
	if w.newFolder {
		consent = plan.Ask
	}
	p.Add(plan.Action{
		ID: "git.remote:" + w.folder.Tag, Why: fmt.Sprintf("name the clone in VM %s %q in the repository %s", w.name, m.Name, w.folder.HostPath),
		Shows: []string{"write " + m.Path()}, Diff: m.AddDiff(), Consent: consent, Timing: "share",
		Do: func(ctx context.Context) error {
			if err := m.Add(ctx); err != nil {
				return err
			}
			w.git.remote.Present = true
			return nil
		},
	})
	return nil
}

// planGitGuest is what brings the clone and the host's view of it up to date.
func (e *Env) planGitGuest(w *want, f *facts) ([]plan.Action, error) {
	if w.git == nil {
		return nil, nil
	}
	g := &w.git.guest
	if err := g.Usable(w.name, w.folder.GuestDst); err != nil {
		return nil, err
	}
	if w.git.quick {
		return nil, nil
	}
	if err := w.git.host.Err; err != nil {
		if w.newFolder || w.git.strict || g.State != gitsync.Clone {
			return nil, err
		}
		w.git.problem = err // the clone is there and can be worked in
		return nil, nil
	}
	h := &w.git.host.Value
	var out []plan.Action
	add := func(id, why, shows string, do func(context.Context, gitsync.Peer) error) {
		out = append(out, plan.Action{
			ID: id + ":" + w.folder.Tag, Why: why, Shows: []string{shows}, Timing: "share",
			Do: func(ctx context.Context) error {
				if err := e.beginGit(ctx, w, f); err != nil {
					return err
				}
				return do(ctx, e.peer(ctx, w, f))
			},
		})
	}
	dst := shellQuote(w.folder.GuestDst)
	if g.State != gitsync.Clone {
		add("git.init", fmt.Sprintf("make a clone of %s at %s in VM %s", w.folder.HostPath, w.folder.GuestDst, w.name), "git init "+dst+" (in the guest)",
			func(ctx context.Context, p gitsync.Peer) error {
				if g.State == gitsync.Clone {
					return nil
				}
				kept, err := gitsync.KeepTracked(ctx, *h)
				if err != nil {
					return err
				}
				if len(kept) > 0 {
					e.UI.Say("What was fetched from an earlier clone in VM %s and is in no branch here is kept: %s", w.name, ui.Some(kept, 10))
				}
				w.git.result.Cloned = true
				return gitsync.Init(ctx, p, *h, g)
			})
	}
	news := gitsync.News(*h, *g)
	if (w.git.fetch || w.git.push && gitsync.Relate(*h, *g) == gitsync.Unseen) && len(news) > 0 {
		add("git.fetch", fmt.Sprintf("fetch what VM %s committed", w.name), "git fetch "+w.git.remote.Name, func(ctx context.Context, p gitsync.Peer) error { return e.gitFetch(ctx, w, p) })
	}
	ups, _ := gitsync.Updates(*h, *g)
	if w.git.push && (len(ups) > 0 || g.State != gitsync.Clone || gitsync.Relate(*h, *g) == gitsync.Unseen || gitsync.Relate(*h, *g) == gitsync.Diverged) {
		add("git.push", fmt.Sprintf("push branch %s to VM %s", h.Branch, w.name), "git push "+w.git.remote.Name+" "+shellQuote(h.Branch),
			func(ctx context.Context, p gitsync.Peer) error { return e.gitPush(ctx, w, p) })
	}
	if w.git.push && gitsync.Follows(*h, *g) {
		add("git.switch", fmt.Sprintf("check out branch %s in VM %s", h.Branch, w.name), "git checkout "+shellQuote(h.Branch)+" (in the guest)",
			func(ctx context.Context, p gitsync.Peer) error { return e.gitSwitch(ctx, w, p) })
	}
	if w.git.wip {
		add("git.wip", fmt.Sprintf("send what is not committed to VM %s", w.name), "git push "+w.git.remote.Name+" refs/aivm/wip/"+shellQuote(h.Branch),
			func(ctx context.Context, p gitsync.Peer) error {
				if g.Heads[h.Branch] != h.Head {
					return ui.Refused("branch %s of VM %s has commits of its own, and what is not committed here stands on others", h.Branch, w.name).
						Hint("take them over first: aivm git pull " + shellQuote(w.folder.HostPath))
				}
				said, err := gitsync.SendUncommitted(ctx, p, *h, g)
				w.git.result.Wip = said
				return err
			})
	}
	w.git.moved = len(out) > 0
	return out, nil
}

func (e *Env) gitFetch(ctx context.Context, w *want, p gitsync.Peer) error {
	h := &w.git.host.Value
	moved, notes, err := gitsync.Fetch(ctx, p, h, w.git.guest)
	for _, n := range notes {
		e.warnOnce(n)
	}
	w.git.result.Fetched = moved
	return w.tolerate(ctx, err)
}

// tolerate makes a remark of what went wrong between the two repositories,
// where moving commits is not the point of the command: what a guest says or
// sends must not keep anybody from going in to mend it.
func (w *want) tolerate(ctx context.Context, err error) error {
	if err == nil || w.git.strict || w.newFolder || ctx.Err() != nil || w.git.guest.State != gitsync.Clone || errors.Is(err, guest.ErrLost) {
		return err
	}
	w.git.problem = errors.Join(w.git.problem, err)
	return nil
}

func (e *Env) gitPush(ctx context.Context, w *want, p gitsync.Peer) error {
	h := &w.git.host.Value
	moves := gitsync.Relate(*h, w.git.guest) == gitsync.HostAhead || gitsync.Relate(*h, w.git.guest) == gitsync.Missing
	if moves {
		// Before the files that stand for them.
		missing, err := gitsync.CarryLFS(ctx, p, *h)
		e.sayMissing(w, missing)
		if err != nil {
			return w.tolerate(ctx, err)
		}
	}
	sent, problem, err := gitsync.PushBranch(ctx, p, h, &w.git.guest)
	w.git.result.Sent = sent
	if moves && problem == nil && err == nil {
		_, missing, serr := gitsync.CarrySubmodules(ctx, p, *h)
		e.sayMissing(w, missing)
		err = serr
	}
	if problem != nil && w.git.strict && err == nil {
		return problem
	}
	if problem != nil {
		w.git.problem = errors.Join(w.git.problem, problem)
	}
	return w.tolerate(ctx, err)
}

// sayMissing says what of the repository its clone lacks.
func (e *Env) sayMissing(w *want, missing []string) {
	for _, m := range missing {
		e.warnOnce("the clone in VM " + w.name + " is not complete: " + m)
	}
}

func (e *Env) gitSwitch(ctx context.Context, w *want, p gitsync.Peer) error {
	h := &w.git.host.Value
	if w.git.guest.Heads[h.Branch] == "" {
		return nil // it could not be pushed, and that was said
	}
	done, err := gitsync.Switch(ctx, p, *h, &w.git.guest)
	if err == nil && !done {
		e.warnOnce(gitsync.Stays(p, *h, w.git.guest))
	}
	return w.tolerate(ctx, err)
}

func (e *Env) peer(ctx context.Context, w *want, f *facts) gitsync.Peer {
	p := gitsync.Peer{Conn: f.conn, VM: w.name, Dir: w.folder.GuestDst, Limits: w.git.limits, Fresh: w.git.fresh, Progress: func(d string, fr float64) { plan.Report(ctx, d, fr) }}
	if e.UI.Verbose > 0 {
		p.Note = func(s string) { e.UI.Say("git: %s", s) }
	}
	return p
}

// beginGit takes the repository's lock, once a run: the quarantine and the refs
// have one run at a time. Whoever had to wait looks again.
func (e *Env) beginGit(ctx context.Context, w *want, f *facts) error {
	if w.git.release != nil {
		return nil
	}
	path := e.state().RepositoryLockPath(share.Token(w.git.repo.CommonDir))
	release, waited, err := lockfile.Lock(ctx, path, e.Rerun, func(holder string) func(error) {
		plan.Report(ctx, "waiting for "+holder+", which works on this repository", -1)
		return func(error) {}
	})
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		return ui.Failed("locking the repository %s: %w", w.git.repo.Top, err).Hint("ls -l " + shellQuote(path))
	}
	if waited {
		w.observeGit(ctx)
		if w.git.host.Err != nil && !(w.git.anyHead && w.git.host.Value.NoBranch) {
			release()
			return w.git.host.Err
		}
		out, err := f.conn.Probe(ctx, []guest.Probe{w.gitProbe()})
		if err == nil {
			w.git.guest, err = gitsync.ParseGuest(out["git"])
		}
		if err != nil {
			release()
			return err
		}
	}
	w.git.release = release
	return nil
}

// endGit lets other runs at the repository and says what kept commits from
// moving: as an error where that was the point of the command, else as a
// remark, for the folder can be worked in all the same.
func (e *Env) endGit(w *want) error {
	if w.git == nil {
		return nil
	}
	if w.git.release != nil {
		w.git.release()
		w.git.release = nil
	}
	e.keepStamp(w)
	err := alone(w.git.problem)
	if err == nil || w.git.strict {
		return err
	}
	e.UI.Warn("%v", err)
	var ue *ui.Error
	if errors.As(err, &ue) {
		for _, h := range ue.Hints {
			e.UI.Warn("  %s", h)
		}
	}
	return nil
}

// letGoGit takes the remote away again, after a run that failed before the
// folder was recorded.
func (e *Env) letGoGit(ctx context.Context, w *want) {
	if w.git == nil {
		return
	}
	if w.git.release != nil {
		w.git.release()
		w.git.release = nil
	}
	// Not the store as this run knows it: another may have recorded it.
	store, err := config.Load(e.StorePath)
	if err != nil {
		e.UI.Warn("the remote %s may be left in %s: %v", w.git.remote.Name, w.git.remote.Path(), err)
		return
	}
	if _, ok := store.Config.FindAttachment(w.folder.HostPath, w.name); ok {
		return
	}
	if m, err := gitsync.FindRemote(w.git.repo, w.name, w.folder.GuestDst); err == nil && m.Present {
		if _, err := m.Remove(ctx); err != nil {
			e.UI.Warn("the remote %s may be left in %s: %v", m.Name, m.Path(), err)
		}
	}
}

// planUngit takes the remote of a folder that is detached out of the
// repository's configuration. A repository that is gone has none.
func planUngit(a share.Attachment, consent plan.Consent) []plan.Action {
	if a.Mode != share.Git {
		return nil
	}
	repo, err := gitsync.Find(a.HostPath)
	if err != nil || repo.Top != filepath.Clean(a.HostPath) {
		return nil
	}
	m, err := gitsync.FindRemote(repo, a.VM, a.GuestDst)
	if err != nil || m.RemoveDiff() == "" {
		return nil
	}
	return []plan.Action{{
		ID: "git.unremote:" + a.Tag, Why: fmt.Sprintf("take the remote %q out of the repository %s", m.Name, a.HostPath), Consent: consent,
		Shows: []string{"write " + m.Path()}, Diff: m.RemoveDiff(),
		Do: func(ctx context.Context) error {
			_, err := m.Remove(ctx)
			return err
		},
	}}
}

// gitState is what `list` says of a folder in mode git: whether the repository
// names the clone.
func gitState(a share.Attachment) string {
	repo, err := gitsync.Find(a.HostPath)
	if err != nil {
		return "missing"
	}
	if m, err := gitsync.FindRemote(repo, a.VM, a.GuestDst); err != nil || !m.Present {
		return "detached"
	}
	return "ok"
}

// sayClone says where the clone is and how to get at what is committed there.
func (e *Env) sayClone(w *want, f *facts) {
	if f.conn == nil {
		e.UI.Result("The clone at %s is made when VM %s runs: %s", w.folder.GuestDst, w.name, w.opens())
		return
	}
	e.UI.Result("Guest clone ready at %s", w.folder.GuestDst)
	e.UI.Say("The repository knows it as the remote %s: git fetch %s, git push %s; or aivm git status %s", w.git.remote.Name, w.git.remote.Name, w.git.remote.Name, shellQuote(w.folder.HostPath))
}

// inClone goes to the top of the clone if the subfolder that was asked for is
// not in it: it is not committed, or ignored.
func (e *Env) inClone(ctx context.Context, w *want, f *facts) {
	if w.git == nil || w.openAt == w.folder.GuestDst || f.conn == nil {
		return
	}
	code, err := f.conn.Run(ctx, guest.Cmd{Argv: []string{"test", "-d", w.openAt}})
	if err == nil && code != 0 {
		e.UI.Warn("%s is not in the clone, for nothing in it is committed; going to %s", w.openAt, w.folder.GuestDst)
		w.openAt = w.folder.GuestDst
	}
}
