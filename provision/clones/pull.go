package clones

import (
	"context"
	"fmt"
	"slices"

	"aivm.dev/aivm/provision/loop"

	"al.essio.dev/pkg/shellescape"
	"github.com/dustin/go-humanize"

	"aivm.dev/aivm/gitsync"
	"aivm.dev/aivm/internal/hostexec"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/target"
)

// bigPull is how many bytes of files a pull may add without a question.
const bigPull = 1 << 30

// GitPull fast-forwards the host's branch to the guest's commits.
func (e Part) GitPull(ctx context.Context, o Options) (GitResult, error) {
	if e.DryRun {
		return GitResult{}, e.dryPull(ctx, o)
	}
	w, f, err := e.transferGit(ctx, o, false, true)
	if err != nil {
		return GitResult{}, err
	}
	f.Close()
	return e.fastForward(ctx, w, f, o)
}

// fastForward does the rest of a pull after the fetch.
func (e Part) fastForward(ctx context.Context, w *target.Target, f *loop.Facts, o Options) (GitResult, error) {
	h := &f.Clone.Host.Value
	r := Result(w, f)
	r.LeftOut = LeftOut(f)
	if !e.JSON {
		for _, l := range r.FetchedLines() {
			o.Line(l)
		}
	}
	remoteBranch := f.Clone.Remote.Name + "/" + h.Branch
	switch rel := gitsync.Relate(*h, f.Clone.Guest); rel {
	case gitsync.VMAhead:
	case gitsync.Diverged:
		return r, ui.Refused("branch %s has diverged (new commits: %d on this machine, %d in VM %s); aivm only fast-forwards", ui.Clean(h.Branch), h.Ahead, h.Behind, w.Name).
			Hint(ui.CmdFor("merge them", "git -C "+shellescape.Quote(w.Folder.HostPath)+" merge "+shellescape.Quote(remoteBranch)), ui.CmdFor("or rebase yours onto them", "git -C "+shellescape.Quote(w.Folder.HostPath)+" rebase "+shellescape.Quote(remoteBranch)))
	case gitsync.Unseen:
		return r, ui.Refused("branch %s of VM %s was left out of the fetch, so it cannot be pulled", ui.Clean(h.Branch), w.Name).
			Hint(ui.Cmd("aivm git fetch " + shellescape.Quote(w.Folder.HostPath)))
	default:
		return r, nil
	}
	n, from := h.Behind, h.Head
	in, err := e.incoming(ctx, *h, from)
	if err != nil {
		return r, err
	}
	size, err := gitsync.Size(ctx, *h, in.changes)
	if err != nil {
		return r, err
	}
	allowed, err := in.allowedFilters(w, o)
	if err != nil {
		e.sayIncoming(w, in)
		return r, err
	}
	e.sayIncoming(w, in)
	if len(in.filters) > 0 && o.RunFilters == "" {
		e.UI.Warn("aivm does not run it; to accept all of the above and run it: %s", in.consentCommand(w))
	}
	if size > bigPull {
		e.UI.Warn("its files need %s of disk space", humanize.IBytes(uint64(size)))
	}
	_, err = e.RunJob(ctx, loop.Job{
		Plan:   func(context.Context) (plan.Plan, error) { return e.planPull(w, f, o, in, size, allowed), nil },
		Failed: func(_ context.Context, _ plan.Plan, _ bool, err error) error { return err },
	})
	if err != nil {
		return r, err
	}
	r = Result(w, f)
	r.LeftOut, r.Changes, r.Runs, r.Filters, r.FiltersRan = LeftOut(f), in.changes, in.hazards, in.filters, len(allowed) > 0
	r.Count, r.RanFilters = n, allowed
	if len(allowed) == 0 {
		r.ManualCommands = in.manualCommands(w, f.Clone.Host.Value.Branch, from)
	}
	return r, nil
}

// planPull plans the fast-forward. It needs consent if it changes host-executed files or adds much
// data.
func (e Part) planPull(w *target.Target, f *loop.Facts, o Options, in incoming, size int64, allowed []gitsync.Filter) plan.Plan {
	h := &f.Clone.Host.Value
	a := plan.Action{
		ID: "git.pull:" + w.Folder.Tag, Why: fmt.Sprintf("fast-forward %s by %s of VM %s", h.Branch, Commits(h.Behind), w.Name),
		Shows: []string{"git merge --ff-only " + shellescape.Quote(f.Clone.Remote.Name+"/"+h.Branch)},
		Do: func(ctx context.Context) error {
			// The user may have taken an hour to confirm.
			e.Reload()
			writable, err := e.guestWritable()
			if err == nil {
				err = h.Repo.Guarded(writable)
			}
			if err != nil {
				return err
			}
			return gitsync.Pull(ctx, h, allowed)
		},
	}
	if len(in.hazards) > 0 && o.RunFilters == "" || size > bigPull {
		a.Consent = plan.Ask
	}
	return plan.Plan{Stage: plan.Host, Actions: []plan.Action{a}}
}

// incoming is what a pull changes, and what of it the host would run.
type incoming struct {
	changes []gitsync.Change
	hazards []string
	filters []gitsync.Filter
	token   string // identifies exactly this list (gitsync.ConsentToken)
}

func (e Part) incoming(ctx context.Context, h gitsync.Host, from string) (in incoming, err error) {
	to := h.Tracked[h.Branch]
	if in.changes, err = gitsync.Changes(ctx, h, from, to); err != nil {
		return in, err
	}
	if in.hazards, err = gitsync.Hazards(ctx, h, in.changes, hostExecuted); err != nil {
		return in, err
	}
	if in.filters, err = gitsync.Filters(ctx, h, to, in.changes); err != nil {
		return in, err
	}
	in.token = gitsync.ConsentToken(from, to, in.hazards, in.filters)
	return in, nil
}

// allowedFilters returns the filters that may run: all that were listed, if the user confirmed exactly this
// list.
func (in incoming) allowedFilters(w *target.Target, o Options) ([]gitsync.Filter, error) {
	switch {
	case o.RunFilters == "":
		return nil, nil
	case len(in.filters) == 0:
		return nil, ui.Refused("--run-filters: no filter would run for what VM %s committed", w.Name).
			Hint(ui.CmdFor("pull without it", "aivm git pull "+shellescape.Quote(w.Folder.HostPath)))
	case o.RunFilters != in.token:
		return nil, ui.Refused("--run-filters %s is for another list: VM %s has new commits since, or git's settings on this machine changed", ui.CleanTo(o.RunFilters, 40), w.Name).
			Hint(ui.CmdFor("review the list above, then accept it", in.consentCommand(w)))
	}
	return in.filters, nil
}

func (in incoming) consentCommand(w *target.Target) string {
	return "aivm git pull " + shellescape.Quote(w.Folder.HostPath) + " --vm " + w.Name + " --run-filters " + in.token
}

// manualCommands returns the commands that run the filters which did not run.
func (in incoming) manualCommands(w *target.Target, branch, from string) []string {
	if len(in.filters) == 0 {
		return nil
	}
	q := shellescape.Quote(w.Folder.HostPath)
	if !slices.ContainsFunc(in.filters, func(f gitsync.Filter) bool { return f.Name != "lfs" }) {
		return []string{"git -C " + q + " lfs pull"}
	}
	return []string{"git -C " + q + " switch -q --detach " + from + " && git -C " + q + " switch -q " + shellescape.Quote(branch)}
}

// sayIncoming warns about the host-executed files of a pull, and about the filters git would run
// for it.
func (e Part) sayIncoming(w *target.Target, in incoming) {
	if len(in.hazards) > 0 {
		e.UI.Warn("these files came from VM %s, and this machine may run or obey them: %s", w.Name, ui.Some(in.hazards, 30))
		e.UI.Warn("review them first: aivm git diff %s", shellescape.Quote(w.Folder.HostPath))
	}
	for _, f := range in.filters {
		e.UI.Warn("git on this machine would run %q (filter %s, set in %s) on %s: %s", f.Command, f.Name, f.From, Counted(len(f.Files), "file"), ui.Some(f.Files, 10))
	}
}

// sayFetchedHazards warns about the host-executed files and filters of a merge of the fetched
// branch.
func (e Part) sayFetchedHazards(ctx context.Context, w *target.Target, f *loop.Facts) error {
	h := f.Clone.Host.Value
	if h.Behind == 0 {
		return nil
	}
	from, err := gitsync.Base(ctx, h)
	if err != nil {
		return err
	}
	in, err := e.incoming(ctx, h, from)
	if err == nil {
		e.sayIncoming(w, in)
	}
	return err
}

// Counted formats a number of things: "1 file", "2 files".
func Counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// dryPull reports what a pull would do, as far as that is known without fetching.
func (e Part) dryPull(ctx context.Context, o Options) error {
	w, f, err := e.observeGit(ctx, o)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Clone.Host.Err; err != nil {
		return err
	}
	h := f.Clone.Host.Value
	remoteBranch := f.Clone.Remote.Name + "/" + h.Branch
	p := plan.Plan{Stage: plan.Host}
	if n := len(gitsync.MovedBranches(h, f.Clone.Guest)); n > 0 || f.Conn == nil {
		p.Add(plan.Action{ID: "git.fetch:" + w.Folder.Tag, Why: "fetch the commits of VM " + w.Name + ", then plan the pull", Shows: []string{"git fetch " + f.Clone.Remote.Name}})
	}
	if h.Behind > 0 && h.Ahead == 0 {
		in, err := e.incoming(ctx, h, h.Head)
		if err != nil {
			return err
		}
		a := plan.Action{ID: "git.pull:" + w.Folder.Tag, Why: fmt.Sprintf("fast-forward %s by %s of VM %s, %d files", h.Branch, Commits(h.Behind), w.Name, len(in.changes)), Shows: []string{"git merge --ff-only " + shellescape.Quote(remoteBranch)}}
		if len(in.hazards) > 0 {
			a.Consent = plan.Ask
			a.Why += ", of which this machine may run or obey " + ui.Some(in.hazards, 30)
		}
		for _, f := range in.filters {
			a.Why += fmt.Sprintf("; without the filter %s on %s", f.Name, ui.Some(f.Files, 10))
		}
		p.Add(a)
	}
	return e.Dry("git pull", w.Name, p)
}

// hostExecuted reports whether programs on the host run or obey the file without being asked.
func hostExecuted(rel string) bool {
	_, ok := hostexec.Match(rel)
	return ok
}
