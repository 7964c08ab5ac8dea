package clones

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/gitsync"
	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/session"
	"aivm.dev/aivm/provision/target"
)

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
		var failure error // of do; the progress line shows it even if the run continues
		out = append(out, plan.Action{
			ID: id + ":" + w.Folder.Tag, Why: why, Shows: []string{shows}, Timing: "share",
			Do: func(ctx context.Context) error {
				f.Clone.HadWork = true
				if err := e.beginGit(ctx, w, f); err != nil {
					return err
				}
				failure = do(ctx, e.peer(ctx, w, f))
				return failure
			},
			Fail: func(err error) error {
				if failure == nil || tolerate(w, f, failure) != nil {
					return err
				}
				return nil
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
		add("git.fetch", fmt.Sprintf("fetch commits from VM %s", w.Name), "git fetch "+f.Clone.Remote.Name, func(ctx context.Context, p gitsync.Peer) error {
			err := e.gitFetch(ctx, w, f, p)
			if left := LeftOut(f); err == nil && len(f.Clone.Result.Fetched) == 0 && len(left) > 0 {
				return reported{ui.Refused("nothing was fetched from VM %s, which has new commits only on branches that were left out: %s", w.Name, ui.Some(left, 10)).
					Hint(ui.Cmd("aivm git status " + shellescape.Quote(w.Folder.HostPath))), w.Clone.Strict}
			}
			return err
		})
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
	return err
}

// LeftOut lists the guest's branches whose commits were not fetched.
func LeftOut(f *loop.Facts) []string {
	out := []string{}
	for name := range gitsync.MovedBranches(f.Clone.Host.Value, f.Clone.Guest) {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// notPushed is the reason for which the guest's branch stays as it is. The folder can be used anyway.
type notPushed struct{ error }

func (n notPushed) Unwrap() error { return n.error }

// reported is an error that a warning has reported. It ends only a run for whose purpose it is fatal.
type reported struct {
	error
	fatal bool
}

func (r reported) Unwrap() error { return r.error }

// tolerate turns an error between the two repositories into a warning, unless transferring commits
// is the purpose of the command: nothing a guest reports or sends may keep the user from entering
// the VM to fix it.
func tolerate(w *target.Target, f *loop.Facts, err error) error {
	var known reported
	if errors.As(err, &known) && !known.fatal {
		return nil
	}
	var refusal notPushed
	if refused := errors.As(err, &refusal); refused {
		err = refusal.error
	} else if w.NewFolder || f.Clone.Guest.State != gitsync.Clone || errors.Is(err, guest.ErrLost) {
		return err
	}
	if w.Clone.Strict {
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
			return err
		}
	}
	sent, problem, err := gitsync.PushBranch(ctx, p, h, &f.Clone.Guest)
	f.Clone.Result.Sent = sent
	if moves && problem == nil && err == nil {
		_, missing, serr := gitsync.CarrySubmodules(ctx, p, *h)
		e.sayMissing(w, missing)
		err = serr
	}
	switch {
	case err != nil:
		return errors.Join(err, problem)
	case problem != nil:
		return notPushed{problem}
	case len(sent.Refs) == 0:
		return plan.ErrUnneeded
	}
	return nil
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
		return plan.ErrUnneeded // the push failed, and that was reported
	}
	done, err := gitsync.Switch(ctx, p, *h, &f.Clone.Guest)
	if err == nil && !done {
		why := gitsync.StaysOnBranch(p, *h, f.Clone.Guest)
		e.WarnOnce(why)
		err = reported{ui.Refused("%s", why), false}
	}
	return err
}

// problem returns what prevented the transfer of commits in a run that continued without it.
func problem(w *target.Target, f *loop.Facts) error {
	err := f.Clone.Problem
	if err == nil && !f.Clone.Unchanged && !w.Clone.Strict && f.Clone.Guest.State == gitsync.Clone {
		err = f.Clone.Host.Err // nothing was planned because of it
	}
	return session.UnwrapSingle(err)
}

// ProblemOf returns what prevented the transfer of commits in a run of code or attach, nil if nothing
// did.
func ProblemOf(w *target.Target, f *loop.Facts) *session.Problem {
	if w.Clone == nil {
		return nil
	}
	err := problem(w, f)
	if err == nil {
		return nil
	}
	p := &session.Problem{Kind: "failed", Message: ui.Clean(err.Error()), Hints: []string{}}
	var ue *ui.Error
	if errors.As(err, &ue) {
		p.Kind, p.Hints = ue.Kind, append(p.Hints, ue.HintLines()...)
	}
	return p
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
	err := problem(w, f)
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
