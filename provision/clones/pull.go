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

// bigPull is how many bytes of files are taken over without a question.
const bigPull = 1 << 30

// GitPull fast-forwards the host's branch to what the guest committed on it.
func (e Part) GitPull(ctx context.Context, o Options) (GitResult, error) {
	if e.DryRun {
		return GitResult{}, e.dryPull(ctx, o)
	}
	w, f, err := e.moveGit(ctx, o, false, true)
	if err != nil {
		return GitResult{}, err
	}
	f.Close()
	return e.takeOver(ctx, w, f, o)
}

// takeOver is the rest of a pull, after the fetch.
func (e Part) takeOver(ctx context.Context, w *target.Target, f *loop.Facts, o Options) (GitResult, error) {
	h := &f.Clone.Host.Value
	r := Result(w, f)
	if !e.JSON {
		for _, l := range r.FetchedLines() {
			o.Line(l)
		}
	}
	theirs := f.Clone.Remote.Name + "/" + h.Branch
	switch rel := gitsync.Relate(*h, f.Clone.Guest); rel {
	case gitsync.VMAhead:
	case gitsync.Diverged:
		return r, ui.Refused("branch %s went two ways: %d new here, %d new in VM %s; aivm only fast-forwards", ui.Clean(h.Branch), h.Ahead, h.Behind, w.Name).
			Hint(ui.CmdFor("join them", "git -C "+shellescape.Quote(w.Folder.HostPath)+" merge "+shellescape.Quote(theirs)), ui.CmdFor("or put yours on top", "git -C "+shellescape.Quote(w.Folder.HostPath)+" rebase "+shellescape.Quote(theirs)))
	default:
		return r, nil
	}
	n, from := h.Behind, h.Head
	in, err := e.incoming(ctx, *h, from)
	if err != nil {
		return r, err
	}
	size, err := gitsync.Size(ctx, *h, in.brings)
	if err != nil {
		return r, err
	}
	agreed, err := in.agreed(w, o)
	if err != nil {
		e.sayIncoming(w, in)
		return r, err
	}
	e.sayIncoming(w, in)
	if len(in.filters) > 0 && o.RunFilters == "" {
		e.UI.Warn("aivm does not run it; to agree to all of the above and have it run: %s", in.agree(w))
	}
	if size > bigPull {
		e.UI.Warn("its files take %s here", humanize.IBytes(uint64(size)))
	}
	_, err = e.RunJob(ctx, loop.Job{
		Plan:   func(context.Context) (plan.Plan, error) { return e.planPull(w, f, o, in, size, agreed), nil },
		Failed: func(_ context.Context, _ plan.Plan, _ bool, err error) error { return err },
	})
	if err != nil {
		return r, err
	}
	r = Result(w, f)
	r.Brings, r.Runs, r.Filters, r.FiltersRan = in.brings, in.runs, in.filters, len(agreed) > 0
	r.Count, r.Agreed = n, agreed
	if len(agreed) == 0 {
		r.ByHand = in.byHand(w, f.Clone.Host.Value.Branch, from)
	}
	return r, nil
}

// planPull is the fast-forward. What this machine may run or obey of it, and what
// fills the disk, is asked about.
func (e Part) planPull(w *target.Target, f *loop.Facts, o Options, in incoming, size int64, agreed []gitsync.Filter) plan.Plan {
	h := &f.Clone.Host.Value
	a := plan.Action{
		ID: "git.pull:" + w.Folder.Tag, Why: fmt.Sprintf("fast-forward %s by %s of VM %s", h.Branch, Commits(h.Behind), w.Name),
		Shows: []string{"git merge --ff-only " + shellescape.Quote(f.Clone.Remote.Name+"/"+h.Branch)},
		Do: func(ctx context.Context) error {
			// Somebody may have taken an hour to agree.
			e.Reload()
			writable, err := e.guestWritable()
			if err == nil {
				err = h.Repo.Guarded(writable)
			}
			if err != nil {
				return err
			}
			return gitsync.Pull(ctx, h, agreed)
		},
	}
	if len(in.runs) > 0 && o.RunFilters == "" || size > bigPull {
		a.Consent = plan.Ask
	}
	return plan.Plan{Stage: plan.Host, Actions: []plan.Action{a}}
}

// incoming is what a pull brings and what of it this machine would run.
type incoming struct {
	brings  []gitsync.Change
	runs    []string
	filters []gitsync.Filter
	list    string // the name of this very list
}

func (e Part) incoming(ctx context.Context, h gitsync.Host, from string) (in incoming, err error) {
	to := h.Tracked[h.Branch]
	if in.brings, err = gitsync.Changes(ctx, h, from, to); err != nil {
		return in, err
	}
	if in.runs, err = gitsync.Hazards(ctx, h, in.brings, runsHere); err != nil {
		return in, err
	}
	if in.filters, err = gitsync.Filters(ctx, h, to, in.brings); err != nil {
		return in, err
	}
	in.list = gitsync.Agreement(from, to, in.runs, in.filters)
	return in, nil
}

// agreed are the filters that may run: all that were listed, if the list that
// was agreed to is this one.
func (in incoming) agreed(w *target.Target, o Options) ([]gitsync.Filter, error) {
	switch {
	case o.RunFilters == "":
		return nil, nil
	case len(in.filters) == 0:
		return nil, ui.Refused("--run-filters: no filter would run for what VM %s committed", w.Name).
			Hint(ui.CmdFor("leave it out", "aivm git pull "+shellescape.Quote(w.Folder.HostPath)))
	case o.RunFilters != in.list:
		return nil, ui.Refused("--run-filters %s is about another list than this one: VM %s committed more since, or git's settings here changed", ui.CleanTo(o.RunFilters, 40), w.Name).
			Hint(ui.CmdFor("read it, and to agree to it", in.agree(w)))
	}
	return in.filters, nil
}

func (in incoming) agree(w *target.Target) string {
	return "aivm git pull " + shellescape.Quote(w.Folder.HostPath) + " --vm " + w.Name + " --run-filters " + in.list
}

// byHand are the commands that run the filters that did not run.
func (in incoming) byHand(w *target.Target, branch, from string) []string {
	if len(in.filters) == 0 {
		return nil
	}
	q := shellescape.Quote(w.Folder.HostPath)
	if !slices.ContainsFunc(in.filters, func(f gitsync.Filter) bool { return f.Name != "lfs" }) {
		return []string{"git -C " + q + " lfs pull"}
	}
	return []string{"git -C " + q + " switch -q --detach " + from + " && git -C " + q + " switch -q " + shellescape.Quote(branch)}
}

// sayIncoming lists what this machine may run or obey of a pull, and what it
// would run for it.
func (e Part) sayIncoming(w *target.Target, in incoming) {
	if len(in.runs) > 0 {
		e.UI.Warn("these files came from VM %s, and this machine may run or obey them: %s", w.Name, ui.Some(in.runs, 30))
		e.UI.Warn("look at them first: aivm git diff %s", shellescape.Quote(w.Folder.HostPath))
	}
	for _, f := range in.filters {
		e.UI.Warn("git on this machine would run %q (filter %s, set in %s) on %s: %s", f.Command, f.Name, f.From, Counted(len(f.Files), "file"), ui.Some(f.Files, 10))
	}
}

// sayFetchedHazards lists what merging the fetched branch would have this
// machine run or obey.
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

// Counted is a number of things, in words.
func Counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// dryPull says what a pull would do, as far as it can be told without fetching.
func (e Part) dryPull(ctx context.Context, o Options) error {
	w, f, err := e.lookGit(ctx, o)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Clone.Host.Err; err != nil {
		return err
	}
	h := f.Clone.Host.Value
	theirs := f.Clone.Remote.Name + "/" + h.Branch
	p := plan.Plan{Stage: plan.Host}
	if n := len(gitsync.News(h, f.Clone.Guest)); n > 0 || f.Conn == nil {
		p.Add(plan.Action{ID: "git.fetch:" + w.Folder.Tag, Why: "fetch what VM " + w.Name + " committed, and see then what it brings", Shows: []string{"git fetch " + f.Clone.Remote.Name}})
	}
	if h.Behind > 0 && h.Ahead == 0 {
		in, err := e.incoming(ctx, h, h.Head)
		if err != nil {
			return err
		}
		a := plan.Action{ID: "git.pull:" + w.Folder.Tag, Why: fmt.Sprintf("fast-forward %s by %s of VM %s, %d files", h.Branch, Commits(h.Behind), w.Name, len(in.brings)), Shows: []string{"git merge --ff-only " + shellescape.Quote(theirs)}}
		if len(in.runs) > 0 {
			a.Consent = plan.Ask
			a.Why += ", of which this machine may run or obey " + ui.Some(in.runs, 30)
		}
		for _, f := range in.filters {
			a.Why += fmt.Sprintf("; without the filter %s on %s", f.Name, ui.Some(f.Files, 10))
		}
		p.Add(a)
	}
	return e.Dry("git pull", w.Name, p)
}

// runsHere reports whether this machine's tools run or obey the file by
// themselves.
func runsHere(rel string) bool {
	_, ok := hostexec.Match(rel)
	return ok
}
