package provision

import (
	"context"
	"fmt"

	"github.com/dustin/go-humanize"

	"aivm.dev/aivm/gitsync"
	"aivm.dev/aivm/internal/hostexec"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
)

// bigPull is how many bytes of files are taken over without a question.
const bigPull = 1 << 30

// GitPull fast-forwards the host's branch to what the guest committed on it.
func (e *Env) GitPull(ctx context.Context, o GitOptions) error {
	if e.DryRun {
		return e.dryPull(ctx, o)
	}
	w, f, err := e.moveGit(ctx, o, false, true)
	if err != nil {
		return err
	}
	f.close()
	h := &w.git.host.Value
	e.quietly(func() { e.sayFetched(w) })
	theirs := w.git.remote.Name + "/" + h.Branch
	switch rel := gitsync.Relate(*h, w.git.guest); rel {
	case gitsync.VMAhead:
	case gitsync.Diverged:
		return ui.Refused("branch %s went two ways: %d new here, %d new in VM %s; aivm only fast-forwards", ui.Clean(h.Branch), h.Ahead, h.Behind, w.name).
			Hint("join them: git -C "+shellQuote(w.folder.HostPath)+" merge "+shellQuote(theirs), "or put yours on top: git -C "+shellQuote(w.folder.HostPath)+" rebase "+shellQuote(theirs))
	default:
		if e.UI.JSON {
			return e.UI.PrintJSON(w.gitResult())
		}
		e.UI.Result("Nothing to take over: VM %s has no commits on %s that are not here", w.name, h.Branch)
		return nil
	}
	n := h.Behind
	brings, err := gitsync.Changes(ctx, *h, h.Head, h.Tracked[h.Branch])
	if err != nil {
		return err
	}
	runs, err := gitsync.Hazards(ctx, *h, brings, runsHere)
	if err != nil {
		return err
	}
	size, err := gitsync.Size(ctx, *h, brings)
	if err != nil {
		return err
	}
	a := plan.Action{
		ID: "git.pull:" + w.folder.Tag, Why: fmt.Sprintf("fast-forward %s by %s of VM %s", h.Branch, commits(n), w.name),
		Shows: []string{"git merge --ff-only " + shellQuote(theirs)},
		Do:    func(ctx context.Context) error { return gitsync.Pull(ctx, h) },
	}
	if len(runs) > 0 {
		a.Consent = plan.Ask
		e.UI.Warn("these files came from VM %s, and this machine may run or obey them: %s", w.name, some(runs, 30))
		e.UI.Warn("look at them first: aivm git diff %s", shellQuote(w.folder.HostPath))
	}
	if size > bigPull {
		a.Consent = plan.Ask
		e.UI.Warn("its files take %s here", humanize.IBytes(uint64(size)))
	}
	p := plan.Plan{Stage: plan.Host, Actions: []plan.Action{a}}
	if err := e.Approval.Consent(ctx, e.UI, p, nil, e.Rerun); err != nil {
		return err
	}
	if _, err := e.run(ctx, p); err != nil {
		return err
	}
	if e.UI.JSON {
		r := w.gitResult()
		r.Brings, r.Runs = brings, runs
		return e.UI.PrintJSON(r)
	}
	e.UI.Result("%s is now at %s: %s of VM %s, %d files", h.Branch, short(h.Head), commits(n), w.name, len(brings))
	return nil
}

// dryPull says what a pull would do, as far as it can be told without fetching.
func (e *Env) dryPull(ctx context.Context, o GitOptions) error {
	w, f, err := e.lookGit(ctx, o)
	if err != nil {
		return err
	}
	defer f.close()
	if err := w.git.host.Err; err != nil {
		return err
	}
	h := w.git.host.Value
	theirs := w.git.remote.Name + "/" + h.Branch
	p := plan.Plan{Stage: plan.Host}
	if n := len(gitsync.News(h, w.git.guest)); n > 0 || f.conn == nil {
		p.Add(plan.Action{ID: "git.fetch:" + w.folder.Tag, Why: "fetch what VM " + w.name + " committed, and see then what it brings", Shows: []string{"git fetch " + w.git.remote.Name}})
	}
	if h.Behind > 0 && h.Ahead == 0 {
		brings, err := gitsync.Changes(ctx, h, h.Head, h.Tracked[h.Branch])
		if err != nil {
			return err
		}
		runs, err := gitsync.Hazards(ctx, h, brings, runsHere)
		if err != nil {
			return err
		}
		a := plan.Action{ID: "git.pull:" + w.folder.Tag, Why: fmt.Sprintf("fast-forward %s by %s of VM %s, %d files", h.Branch, commits(h.Behind), w.name, len(brings)), Shows: []string{"git merge --ff-only " + shellQuote(theirs)}}
		if len(runs) > 0 {
			a.Consent = plan.Ask
			a.Why += ", of which this machine may run or obey " + some(runs, 30)
		}
		p.Add(a)
	}
	if err := e.printPlain("git pull", w.name, p); err != nil {
		return err
	}
	return errDry
}

// runsHere reports whether this machine's tools run or obey the file by
// themselves.
func runsHere(rel string) bool {
	_, ok := hostexec.Match(rel)
	return ok
}
