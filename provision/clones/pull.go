package clones

import (
	"context"
	"fmt"

	"al.essio.dev/pkg/shellescape"
	"github.com/dustin/go-humanize"

	"aivm.dev/aivm/gitsync"
	"aivm.dev/aivm/internal/hostexec"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/session"
	"aivm.dev/aivm/provision/target"
)

// bigPull is how many bytes of files are taken over without a question.
const bigPull = 1 << 30

// GitPull fast-forwards the host's branch to what the guest committed on it.
func (e Part) GitPull(ctx context.Context, o Options) error {
	if e.DryRun {
		return e.dryPull(ctx, o)
	}
	w, f, err := e.moveGit(ctx, o, false, true)
	if err != nil {
		return err
	}
	f.Close()
	return e.takeOver(ctx, w, o)
}

// takeOver is the rest of a pull, after the fetch.
func (e Part) takeOver(ctx context.Context, w *target.Target, o Options) error {
	h := &w.Git.Host.Value
	e.quietly(func() { e.sayFetched(w) })
	theirs := w.Git.Remote.Name + "/" + h.Branch
	switch rel := gitsync.Relate(*h, w.Git.Guest); rel {
	case gitsync.VMAhead:
	case gitsync.Diverged:
		return ui.Refused("branch %s went two ways: %d new here, %d new in VM %s; aivm only fast-forwards", ui.Clean(h.Branch), h.Ahead, h.Behind, w.Name).
			Hint("join them: git -C "+shellescape.Quote(w.Folder.HostPath)+" merge "+shellescape.Quote(theirs), "or put yours on top: git -C "+shellescape.Quote(w.Folder.HostPath)+" rebase "+shellescape.Quote(theirs))
	default:
		if e.UI.JSON {
			return e.UI.PrintJSON(Result(w))
		}
		e.UI.Result("Nothing to take over: VM %s has no commits on %s that are not here", w.Name, h.Branch)
		return nil
	}
	n, from := h.Behind, h.Head
	in, err := e.incoming(ctx, *h, from)
	if err != nil {
		return err
	}
	brings, runs := in.brings, in.runs
	size, err := gitsync.Size(ctx, *h, brings)
	if err != nil {
		return err
	}
	agreed, err := in.agreed(w, o)
	if err != nil {
		e.sayIncoming(w, in)
		return err
	}
	a := plan.Action{
		ID: "git.pull:" + w.Folder.Tag, Why: fmt.Sprintf("fast-forward %s by %s of VM %s", h.Branch, commits(n), w.Name),
		Shows: []string{"git merge --ff-only " + shellescape.Quote(theirs)},
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
	e.sayIncoming(w, in)
	if len(in.filters) > 0 && o.RunFilters == "" {
		e.UI.Warn("aivm does not run it; to agree to all of the above and have it run: %s", in.agree(w))
	}
	if len(runs) > 0 && o.RunFilters == "" {
		a.Consent = plan.Ask
	}
	if size > bigPull {
		a.Consent = plan.Ask
		e.UI.Warn("its files take %s here", humanize.IBytes(uint64(size)))
	}
	p := plan.Plan{Stage: plan.Host, Actions: []plan.Action{a}}
	if err := e.Approval.Consent(ctx, e.UI, p, nil, e.Rerun); err != nil {
		return err
	}
	if _, err := e.Run(ctx, p); err != nil {
		return err
	}
	if e.UI.JSON {
		r := Result(w)
		r.Brings, r.Runs, r.Filters, r.FiltersRan = brings, runs, in.filters, len(agreed) > 0
		return e.UI.PrintJSON(r)
	}
	e.UI.Result("%s is now at %s: %s of VM %s, %d files", h.Branch, short(h.Head), commits(n), w.Name, len(brings))
	if len(agreed) == 0 {
		e.sayUnfiltered(w, in, from)
	}
	for _, f := range agreed {
		e.UI.Say("The filter %s ran on %s, as agreed", f.Name, counted(len(f.Files), "file"))
	}
	return nil
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
			Hint("leave it out: aivm git pull " + shellescape.Quote(w.Folder.HostPath))
	case o.RunFilters != in.list:
		return nil, ui.Refused("--run-filters %s is about another list than this one: VM %s committed more since, or git's settings here changed", ui.CleanTo(o.RunFilters, 40), w.Name).
			Hint("read it, and to agree to it: " + in.agree(w))
	}
	return in.filters, nil
}

func (in incoming) agree(w *target.Target) string {
	return "aivm git pull " + shellescape.Quote(w.Folder.HostPath) + " --vm " + w.Name + " --run-filters " + in.list
}

// sayIncoming lists what this machine may run or obey of a pull, and what it
// would run for it.
func (e Part) sayIncoming(w *target.Target, in incoming) {
	if len(in.runs) > 0 {
		e.UI.Warn("these files came from VM %s, and this machine may run or obey them: %s", w.Name, ui.Some(in.runs, 30))
		e.UI.Warn("look at them first: aivm git diff %s", shellescape.Quote(w.Folder.HostPath))
	}
	for _, f := range in.filters {
		e.UI.Warn("git on this machine would run %q (filter %s, set in %s) on %s: %s", f.Command, f.Name, f.From, counted(len(f.Files), "file"), ui.Some(f.Files, 10))
	}
}

// sayFetchedHazards lists what merging the fetched branch would have this
// machine run or obey.
func (e Part) sayFetchedHazards(ctx context.Context, w *target.Target) error {
	h := w.Git.Host.Value
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

// sayUnfiltered says how to finish by hand what filters would have done.
func (e Part) sayUnfiltered(w *target.Target, in incoming, from string) {
	if len(in.filters) == 0 {
		return
	}
	n, lfs := 0, true
	var names []string
	for _, f := range in.filters {
		n += len(f.Files)
		names = append(names, f.Name)
		lfs = lfs && f.Name == "lfs"
	}
	q := shellescape.Quote(w.Folder.HostPath)
	e.UI.Say("%s as committed, without the filter %s, which was not run; to run it, once you have looked:", counted(n, "file"), ui.Some(names, 10))
	if lfs {
		e.UI.Say("  git -C %s lfs pull", q)
		return
	}
	e.UI.Say("  git -C %s switch -q --detach %s && git -C %s switch -q %s", q, from, q, shellescape.Quote(w.Git.Host.Value.Branch))
}

func counted(n int, what string) string {
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
	if err := w.Git.Host.Err; err != nil {
		return err
	}
	h := w.Git.Host.Value
	theirs := w.Git.Remote.Name + "/" + h.Branch
	p := plan.Plan{Stage: plan.Host}
	if n := len(gitsync.News(h, w.Git.Guest)); n > 0 || f.Conn == nil {
		p.Add(plan.Action{ID: "git.fetch:" + w.Folder.Tag, Why: "fetch what VM " + w.Name + " committed, and see then what it brings", Shows: []string{"git fetch " + w.Git.Remote.Name}})
	}
	if h.Behind > 0 && h.Ahead == 0 {
		in, err := e.incoming(ctx, h, h.Head)
		if err != nil {
			return err
		}
		a := plan.Action{ID: "git.pull:" + w.Folder.Tag, Why: fmt.Sprintf("fast-forward %s by %s of VM %s, %d files", h.Branch, commits(h.Behind), w.Name, len(in.brings)), Shows: []string{"git merge --ff-only " + shellescape.Quote(theirs)}}
		if len(in.runs) > 0 {
			a.Consent = plan.Ask
			a.Why += ", of which this machine may run or obey " + ui.Some(in.runs, 30)
		}
		for _, f := range in.filters {
			a.Why += fmt.Sprintf("; without the filter %s on %s", f.Name, ui.Some(f.Files, 10))
		}
		p.Add(a)
	}
	if err := e.PrintPlain("git pull", w.Name, p); err != nil {
		return err
	}
	return session.ErrDry
}

// runsHere reports whether this machine's tools run or obey the file by
// themselves.
func runsHere(rel string) bool {
	_, ok := hostexec.Match(rel)
	return ok
}
