package clones

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"aivm.dev/aivm/internal/capture"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/gitsync"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/target"
)

// Options are the flags of the `git` commands.
type Options struct {
	Folder  string
	VM      string
	Wip     bool   // push: also send the uncommitted state
	MaxSize int64  // fetch, pull: how many bytes the guest may send
	NoFetch bool   // diff, log: do not fetch first
	Stat    bool   // diff: only list the files
	Branch  string // diff, log: a branch of the guest; "" is its checked-out one
	// RunFilters is the token of a list that a pull printed; the filters of that list may run.
	RunFilters string
	// Line receives each line of diff and log, and of what was fetched before a pull asks for
	// consent.
	Line func(string)
}

// GitResult is the JSON output of the `git` commands.
type GitResult struct {
	Schema   int                   `json:"schema"`
	VM       string                `json:"vm"`
	Folder   string                `json:"folder"`
	GuestDst string                `json:"guest_dst"`
	Remote   string                `json:"remote"`
	Branch   string                `json:"branch"`
	Head     string                `json:"head"`
	Relation gitsync.Relation      `json:"relation"`
	Ahead    int                   `json:"ahead"`
	Behind   int                   `json:"behind"`
	Pushed   []string              `json:"pushed"`
	Objects  int                   `json:"objects"`
	Fetched  []gitsync.Fetched     `json:"fetched"`
	Wip      string                `json:"wip,omitempty"`
	Guest    *ResultGuest          `json:"guest,omitempty"` // status: the VM's report
	Dirty    []gitsync.StatusEntry `json:"dirty,omitempty"` // status: uncommitted files on the host
	Changes  []gitsync.Change      `json:"brings,omitempty"`
	Runs     []string              `json:"runs,omitempty"`    // pull: host-executed files among the changes
	Filters  []gitsync.Filter      `json:"filters,omitempty"` // pull: filters that the host's git would run
	// FiltersRan means that the filters ran; otherwise the files are as committed.
	FiltersRan bool `json:"filters_ran,omitempty"`
	// LeftOut lists the guest's branches that a fetch or pull did not fetch, and KeptTags the tags that
	// a push did not send, since the guest's of that name points to another object.
	LeftOut  []string `json:"left_out,omitempty"`
	KeptTags []string `json:"kept_tags,omitempty"`
	// GuestBranch is the branch checked out in the guest after a push.
	GuestBranch string `json:"guest_branch,omitempty"`

	// Not in JSON.
	Answers        bool             `json:"-"` // the VM answers
	Uncommitted    int              `json:"-"` // push: uncommitted files on the host that were not sent
	ManualCommands []string         `json:"-"` // pull: commands that run the filters which did not run
	Count          int              `json:"-"` // pull: number of merged commits
	RanFilters     []gitsync.Filter `json:"-"` // pull: filters that ran
}

// ResultGuest is the guest's report about the clone.
type ResultGuest struct {
	State  gitsync.GuestState    `json:"state"`
	Branch string                `json:"branch"`
	Dirty  []gitsync.StatusEntry `json:"dirty"`
	News   []string              `json:"news"` // branches with commits that were not fetched
}

// cloneTarget returns the target of a folder that is attached in git mode.
func (e Part) cloneTarget(ctx context.Context, o Options) (*target.Target, error) {
	_, real, err := target.ResolveFolder(o.Folder)
	if err != nil {
		return nil, err
	}
	w, err := e.VM(ctx, o.VM, real, false)
	if err != nil {
		return nil, err
	}
	r, ok := w.SavedFor(real)
	if !ok {
		if _, err := gitsync.Find(real); err != nil {
			return nil, err
		}
		return nil, ui.Refused("%s is not attached to VM %s", ui.Clean(real), w.Name).
			Hint(ui.CmdFor("to create a clone of it in the VM", "aivm attach "+shellescape.Quote(real)+" --mode git --vm "+w.Name))
	}
	if a := share.Recorded(r); a.Mode != share.Git {
		err := ui.Refused("%s is attached to VM %s in mode %s: the VM uses the files directly, so there is nothing to push or fetch", ui.Clean(a.HostPath), w.Name, a.Mode)
		if _, e := gitsync.Find(a.HostPath); e != nil {
			return nil, err.Hint(ui.Remark("a clone instead needs a git repository, and the folder is in none"), ui.Cmd("aivm list"))
		}
		return nil, err.Hint(ui.CmdFor("to use a clone instead", "aivm detach "+shellescape.Quote(a.HostPath)+" --vm "+w.Name), ui.CmdFor("then", "aivm attach "+shellescape.Quote(a.HostPath)+" --mode git --vm "+w.Name))
	}
	if w, err = w.WithSaved(target.FolderOptions{}, r, real, share.Git, ""); err != nil {
		return nil, err
	}
	if w, err = e.Find(ctx, w); err != nil {
		return nil, err
	}
	c := *w.Clone
	c.Strict, c.Wip = true, o.Wip
	c.Limits = gitsync.Limits{Bytes: o.MaxSize}
	return w.WithClone(c), nil
}

// GitPush pushes the host's branch to the guest's clone.
func (e Part) GitPush(ctx context.Context, o Options) (GitResult, error) {
	w, f, err := e.transferGit(ctx, o, true, false)
	if err != nil {
		return GitResult{}, err
	}
	defer f.Close()
	r := Result(w, f)
	_, r.KeptTags = gitsync.Updates(f.Clone.Host.Value, f.Clone.Guest)
	r.GuestBranch = f.Clone.Guest.Head
	if len(r.KeptTags) > 0 {
		e.WarnOnce(fmt.Sprintf("tags that point to another object in VM %s were not pushed: %s", w.Name, ui.Some(r.KeptTags, 10)))
	}
	if r.Wip == "" && !e.JSON {
		if all, err := gitsync.HostStatus(ctx, w.Clone.Repo); err == nil {
			dirty, _ := Compared(all)
			r.Uncommitted = len(dirty)
		}
	}
	return r, nil
}

// GitFetch fetches the guest's commits.
func (e Part) GitFetch(ctx context.Context, o Options) (GitResult, error) {
	w, f, err := e.transferGit(ctx, o, false, true)
	if err != nil {
		return GitResult{}, err
	}
	defer f.Close()
	r := Result(w, f)
	r.LeftOut = LeftOut(f)
	if e.JSON {
		return r, nil
	}
	return r, e.sayFetchedHazards(ctx, w, f)
}

// FetchedLines describes what was fetched, one line per branch.
func (r GitResult) FetchedLines() []string {
	var out []string
	for _, m := range r.Fetched {
		what := "new"
		switch {
		case m.Forced:
			what = Short(m.Old) + "..." + Short(m.New) + " (rewritten in the VM)"
		case m.Old != "":
			what = Short(m.Old) + ".." + Short(m.New)
		}
		out = append(out, fmt.Sprintf("%s/%s  %s", r.Remote, m.Branch, what))
	}
	return out
}

// GitStatus compares the repository with its clone. A VM that is off stays off.
func (e Part) GitStatus(ctx context.Context, o Options) (GitResult, error) {
	w, f, err := e.observeGit(ctx, o)
	if err != nil {
		return GitResult{}, err
	}
	defer f.Close()
	if err := f.Clone.Host.Err; err != nil {
		return GitResult{}, err
	}
	r := Result(w, f)
	if r.Dirty, err = gitsync.HostStatus(ctx, w.Clone.Repo); err != nil {
		return r, err
	}
	h, g := f.Clone.Host.Value, f.Clone.Guest
	if r.Answers = f.Conn != nil; !r.Answers {
		return r, nil
	}
	r.Guest = &ResultGuest{State: g.State, Branch: g.Head, Dirty: []gitsync.StatusEntry{}, News: []string{}}
	if g.State == gitsync.Clone {
		dirty, err := gitsync.GuestStatus(ctx, e.peer(ctx, w, f))
		if err != nil {
			return r, e.ExplainLost(ctx, w.Name, err)
		}
		r.Guest.Dirty = append(r.Guest.Dirty, dirty...)
		for name := range gitsync.MovedBranches(h, g) {
			r.Guest.News = append(r.Guest.News, name)
		}
		slices.Sort(r.Guest.News)
	}
	return r, nil
}

// Compared separates files that differ from files that could only be compared by running a filter.
func Compared(es []gitsync.StatusEntry) (dirty, unknown []gitsync.StatusEntry) {
	for _, s := range es {
		if s.Filter == "" {
			dirty = append(dirty, s)
		} else {
			unknown = append(unknown, s)
		}
	}
	return dirty, unknown
}

// GitDiff shows the changes of the guest's branch since the merge base with the host's.
func (e Part) GitDiff(ctx context.Context, o Options) error {
	f, ref, err := e.fetchedBranch(ctx, o)
	if err != nil {
		return err
	}
	args := []string{"diff", "--no-ext-diff", "--no-textconv", "--no-color", "--submodule=short", "--ignore-submodules=none"}
	if o.Stat {
		args = append(args, "--stat=120")
	}
	return e.showGit(ctx, f, o.Line, append(args, f.Clone.Host.Value.Head+"..."+ref, "--"))
}

// GitLog lists the guest's commits that are not on the host's branch.
func (e Part) GitLog(ctx context.Context, o Options) error {
	f, ref, err := e.fetchedBranch(ctx, o)
	if err != nil {
		return err
	}
	return e.showGit(ctx, f, o.Line, []string{"log", "--no-color", "--no-ext-diff", "--no-textconv", "--no-show-signature", "--date=iso", "--format=%h %ad %an: %s", f.Clone.Host.Value.Head + ".." + ref, "--"})
}

// fetchedBranch returns the guest's branch as fetched; if the VM runs, it fetches first.
func (e Part) fetchedBranch(ctx context.Context, o Options) (*loop.Facts, string, error) {
	w, f, err := e.observeGit(ctx, o)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	if err := f.Clone.Host.Err; err != nil {
		return nil, "", err
	}
	if f.Conn != nil && !o.NoFetch && f.Clone.Guest.State == gitsync.Clone && len(gitsync.MovedBranches(f.Clone.Host.Value, f.Clone.Guest)) > 0 {
		err := e.beginGit(ctx, w, f)
		if err == nil {
			err = e.gitFetch(ctx, w, f, e.peer(ctx, w, f))
			f.Clone.Release()
			f.Clone.Release = nil
		}
		if err != nil {
			return nil, "", e.ExplainLost(ctx, w.Name, err)
		}
	}
	h := f.Clone.Host.Value
	name := o.Branch
	if name == "" {
		name = f.Clone.Guest.Head
	}
	if name == "" || o.Branch == "" && h.Tracked[name] == "" {
		name = h.Branch
	}
	at := h.Tracked[name]
	if at == "" {
		return nil, "", ui.Refused("branch %s of VM %s was never fetched", ui.Clean(name), w.Name).Hint(ui.Cmd("aivm git fetch " + shellescape.Quote(w.Folder.HostPath)))
	}
	if f.Conn == nil && !o.NoFetch {
		e.UI.Say("VM %s does not answer; showing what was fetched last", w.Name)
	}
	return f, at, nil
}

// showGit prints git's output line by line. The lines contain text from the guest, so the caller's
// line function must clean them.
func (e Part) showGit(ctx context.Context, f *loop.Facts, line func(string), args []string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out := &capture.Lines{Each: func(l string) { line(strings.TrimSuffix(l, "\r")) }}
	err := gitsync.Show(ctx, f.Clone.Host.Value, out, args...)
	out.Flush()
	return err
}

// Result describes a repository and its clone, and what this run transferred.
func Result(w *target.Target, f *loop.Facts) GitResult {
	h := f.Clone.Host.Value
	r := GitResult{
		Schema: 1, VM: w.Name, Folder: w.Folder.HostPath, GuestDst: w.Folder.GuestDst, Remote: f.Clone.Remote.Name, Branch: h.Branch, Head: h.Head,
		Relation: gitsync.Relate(h, f.Clone.Guest), Ahead: h.Ahead, Behind: h.Behind, Pushed: pushed(f.Clone.Result.Sent), Objects: f.Clone.Result.Sent.Objects,
		Fetched: f.Clone.Result.Fetched, Wip: f.Clone.Result.Wip,
	}
	if f.Clone.Guest.State == "" { // the guest was not asked: use what was fetched last
		seen := f.Clone.Guest
		seen.State, seen.Heads = gitsync.Clone, h.Tracked
		r.Relation = gitsync.Relate(h, seen)
	}
	if r.Fetched == nil {
		r.Fetched = []gitsync.Fetched{}
	}
	return r
}

func pushed(s gitsync.Sent) []string {
	out := []string{}
	for _, u := range s.Refs {
		out = append(out, strings.TrimPrefix(strings.TrimPrefix(u.Ref, "refs/heads/"), "refs/"))
	}
	return out
}

// Commits formats a number of commits.
func Commits(n int) string {
	if n == 1 {
		return "1 commit"
	}
	return fmt.Sprintf("%d commits", n)
}

// Short abbreviates an object name.
func Short(oid string) string { return oid[:min(10, len(oid))] }

// Entries lists files with their states.
func Entries(es []gitsync.StatusEntry) string {
	var l []string
	for _, s := range es {
		l = append(l, strings.TrimSpace(s.Code)+" "+s.Path)
	}
	return ui.Some(l, 20)
}
