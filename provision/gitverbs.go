package provision

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"aivm.dev/aivm/gitsync"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/share"
)

// GitOptions are the flags of the `git` verbs.
type GitOptions struct {
	Folder  string
	VM      string
	Wip     bool   // push: the uncommitted state too
	MaxSize int64  // fetch, pull: what the guest may send
	NoFetch bool   // diff, log: as last fetched
	Stat    bool   // diff: only which files
	Branch  string // diff, log: of the guest; "" = the one checked out there
	// RunFilters is the name of a list that a pull printed: its filters may run.
	RunFilters string
}

// GitResult is what the `git` verbs print with --json.
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
	Guest    *GitGuest             `json:"guest,omitempty"` // status: what the VM says
	Dirty    []gitsync.StatusEntry `json:"dirty,omitempty"` // status: not committed here
	Brings   []gitsync.Change      `json:"brings,omitempty"`
	Runs     []string              `json:"runs,omitempty"`    // pull: what this machine may run of it
	Filters  []gitsync.Filter      `json:"filters,omitempty"` // pull: what git here would run for it
	// FiltersRan says that they did; else the files are as they are committed.
	FiltersRan bool `json:"filters_ran,omitempty"`
}

// GitGuest is the clone as the guest describes it.
type GitGuest struct {
	State  gitsync.GuestState    `json:"state"`
	Branch string                `json:"branch"`
	Dirty  []gitsync.StatusEntry `json:"dirty"`
	News   []string              `json:"news"` // branches with commits that were not fetched
}

// wantClone is a folder that is attached in mode git.
func (e *Env) wantClone(ctx context.Context, o GitOptions) (*want, error) {
	_, real, err := Folder(o.Folder)
	if err != nil {
		return nil, err
	}
	w, err := e.wantVM(ctx, o.VM, real, false)
	if err != nil {
		return nil, err
	}
	r, ok := w.savedFor(real)
	if !ok {
		return nil, ui.Refused("%s is not attached to VM %s", ui.Clean(real), w.name).
			Hint("to give the VM a clone of it: aivm attach " + shellQuote(real) + " --mode git --vm " + w.name)
	}
	if a := attachment(r); a.Mode != share.Git {
		return nil, ui.Refused("%s is attached to VM %s in mode %s: the VM has the files themselves, and nothing is pushed or fetched", ui.Clean(a.HostPath), w.name, a.Mode).
			Hint("to have a clone instead: aivm detach "+shellQuote(a.HostPath)+" --vm "+w.name, "then: aivm attach "+shellQuote(a.HostPath)+" --mode git --vm "+w.name)
	}
	if err := w.takeSaved(FolderOptions{}, r, real, share.Git, ""); err != nil {
		return nil, err
	}
	if err := e.wantGit(ctx, w); err != nil {
		return nil, err
	}
	w.git.strict, w.git.wip = true, o.Wip
	w.git.limits = gitsync.Limits{Bytes: o.MaxSize}
	return w, nil
}

// moveGit is the loop for a verb whose point is to move commits.
func (e *Env) moveGit(ctx context.Context, o GitOptions, push, fetch bool) (*want, *facts, error) {
	e.timing = ui.NewTiming("boot", "share", "ssh")
	w, err := e.wantClone(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	w.boot, w.guest = true, true
	w.git.push, w.git.fetch = push, fetch
	f, err := e.converge(ctx, w)
	return w, f, err
}

// GitPush pushes the branch of the host to the guest's clone.
func (e *Env) GitPush(ctx context.Context, o GitOptions) error {
	w, f, err := e.moveGit(ctx, o, true, false)
	if err != nil {
		return err
	}
	defer f.close()
	if e.UI.JSON {
		return e.UI.PrintJSON(w.gitResult())
	}
	h := w.git.host.Value
	switch sent := w.git.result.Sent; {
	case len(sent.Refs) > 0:
		e.UI.Result("Pushed to VM %s: %s", w.name, strings.Join(pushed(sent), ", "))
	case gitsync.Relate(h, w.git.guest) == gitsync.VMAhead:
		e.UI.Result("Nothing to push: VM %s is %s ahead on %s", w.name, commits(h.Behind), h.Branch)
		e.UI.Say("to take them over: aivm git pull %s", shellQuote(w.folder.HostPath))
	default:
		e.UI.Result("Nothing to push: VM %s has %s as it is here", w.name, h.Branch)
	}
	if w.git.result.Wip != "" {
		e.UI.Result("%s", w.git.result.Wip)
	} else if all, err := gitsync.HostStatus(ctx, w.git.repo); err == nil {
		dirty, _ := compared(all)
		if len(dirty) == 0 {
			return nil
		}
		e.UI.Say("%d files are not committed here and were not pushed; to send them too: aivm git push %s --include-uncommitted", len(dirty), shellQuote(w.folder.HostPath))
	}
	return nil
}

// GitFetch fetches what the guest committed.
func (e *Env) GitFetch(ctx context.Context, o GitOptions) error {
	w, f, err := e.moveGit(ctx, o, false, true)
	if err != nil {
		return err
	}
	defer f.close()
	if e.UI.JSON {
		return e.UI.PrintJSON(w.gitResult())
	}
	e.sayFetched(w)
	if err := e.sayFetchedHazards(ctx, w); err != nil {
		return err
	}
	if len(w.git.result.Fetched) == 0 {
		e.UI.Result("Nothing new in VM %s", w.name)
	}
	return nil
}

func (e *Env) sayFetched(w *want) {
	for _, m := range w.git.result.Fetched {
		what := "new"
		switch {
		case m.Forced:
			what = short(m.Old) + "..." + short(m.New) + " (rewritten in the VM)"
		case m.Old != "":
			what = short(m.Old) + ".." + short(m.New)
		}
		e.UI.Result("%s/%s  %s", w.git.remote.Name, m.Branch, what)
	}
}

// GitStatus compares the repository with its clone. A VM that is off stays off.
func (e *Env) GitStatus(ctx context.Context, o GitOptions) error {
	w, f, err := e.lookGit(ctx, o)
	if err != nil {
		return err
	}
	defer f.close()
	if err := w.git.host.Err; err != nil {
		return err
	}
	r := w.gitResult()
	if r.Dirty, err = gitsync.HostStatus(ctx, w.git.repo); err != nil {
		return err
	}
	h, g := w.git.host.Value, w.git.guest
	if f.conn != nil {
		r.Guest = &GitGuest{State: g.State, Branch: g.Head, Dirty: []gitsync.StatusEntry{}, News: []string{}}
		if g.State == gitsync.Clone {
			dirty, err := gitsync.GuestStatus(ctx, e.peer(ctx, w, f))
			if err != nil {
				return e.explainLost(ctx, w.name, err)
			}
			r.Guest.Dirty = append(r.Guest.Dirty, dirty...)
			for name := range gitsync.News(h, g) {
				r.Guest.News = append(r.Guest.News, name)
			}
			slices.Sort(r.Guest.News)
		}
	}
	if e.UI.JSON {
		return e.UI.PrintJSON(r)
	}
	q := shellQuote(w.folder.HostPath)
	e.UI.Result("%s: branch %s at %s", w.folder.HostPath, h.Branch, short(h.Head))
	if f.conn == nil {
		e.UI.Result("VM %s does not answer; as it was last seen:", w.name)
	}
	where := fmt.Sprintf("%s in VM %s", w.folder.GuestDst, w.name)
	switch {
	case f.conn != nil && g.State != gitsync.Clone:
		e.UI.Result("The clone %s is not there; to make it: aivm git push %s", where, q)
	case r.Relation == gitsync.Unseen || r.Guest != nil && len(r.Guest.News) > 0:
		e.UI.Result("The clone %s has commits that were not fetched, on %s: aivm git fetch %s", where, strings.Join(r.Guest.News, ", "), q)
	case r.Relation == gitsync.Same:
		e.UI.Result("The clone %s has the same commits", where)
	case r.Relation == gitsync.Diverged:
		e.UI.Result("Diverged from the clone %s: %s here, %s there: git merge %s/%s", where, commits(h.Ahead), commits(h.Behind), w.git.remote.Name, h.Branch)
	case r.Relation == gitsync.VMAhead:
		e.UI.Result("The clone %s is %s ahead: aivm git pull %s", where, commits(h.Behind), q)
	case r.Relation == gitsync.HostAhead:
		e.UI.Result("The clone %s is %s behind: aivm git push %s", where, commits(h.Ahead), q)
	default:
		e.UI.Result("The clone %s has no branch %s: aivm git push %s", where, h.Branch, q)
	}
	if g.Head != "" && g.Head != h.Branch {
		e.UI.Result("Branch %s is checked out there", g.Head)
	}
	dirty, unknown := compared(r.Dirty)
	if len(dirty) > 0 {
		e.UI.Result("Not committed here: %s", entries(dirty))
	}
	if len(unknown) > 0 {
		e.UI.Result("Not compared here, since aivm runs no filters: %s; to compare: git -C %s status", entries(unknown), q)
	}
	if r.Guest != nil && len(r.Guest.Dirty) > 0 {
		e.UI.Result("Not committed there: %s", entries(r.Guest.Dirty))
	}
	return nil
}

// compared sets apart the files that only a filter could tell to be unchanged.
func compared(es []gitsync.StatusEntry) (dirty, unknown []gitsync.StatusEntry) {
	for _, s := range es {
		if s.Filter == "" {
			dirty = append(dirty, s)
		} else {
			unknown = append(unknown, s)
		}
	}
	return dirty, unknown
}

// lookGit observes without changing anything, the guest too if it answers.
func (e *Env) lookGit(ctx context.Context, o GitOptions) (*want, *facts, error) {
	e.timing = ui.NewTiming("ssh")
	w, err := e.wantClone(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	w.guest = true
	f, err := e.observe(ctx, w)
	return w, f, err
}

// GitDiff shows what the guest's branch changed since it left the host's.
func (e *Env) GitDiff(ctx context.Context, o GitOptions) error {
	w, ref, err := e.gitTheirs(ctx, o)
	if err != nil {
		return err
	}
	args := []string{"diff", "--no-ext-diff", "--no-textconv", "--no-color", "--submodule=short", "--ignore-submodules=none"}
	if o.Stat {
		args = append(args, "--stat=120")
	}
	return e.showGit(ctx, w, append(args, w.git.host.Value.Head+"..."+ref, "--"))
}

// GitLog lists the guest's commits that are not on the host's branch.
func (e *Env) GitLog(ctx context.Context, o GitOptions) error {
	w, ref, err := e.gitTheirs(ctx, o)
	if err != nil {
		return err
	}
	return e.showGit(ctx, w, []string{"log", "--no-color", "--no-ext-diff", "--no-textconv", "--no-show-signature", "--date=iso", "--format=%h %ad %an: %s", w.git.host.Value.Head + ".." + ref, "--"})
}

// gitTheirs is the guest's branch as it was fetched: just now if the VM runs.
func (e *Env) gitTheirs(ctx context.Context, o GitOptions) (*want, string, error) {
	w, f, err := e.lookGit(ctx, o)
	if err != nil {
		return nil, "", err
	}
	defer f.close()
	if err := w.git.host.Err; err != nil {
		return nil, "", err
	}
	if f.conn != nil && !o.NoFetch && w.git.guest.State == gitsync.Clone && len(gitsync.News(w.git.host.Value, w.git.guest)) > 0 {
		err := e.beginGit(ctx, w, f)
		if err == nil {
			err = e.gitFetch(ctx, w, e.peer(ctx, w, f))
			w.git.release()
			w.git.release = nil
		}
		if err != nil {
			return nil, "", e.explainLost(ctx, w.name, err)
		}
	}
	h := w.git.host.Value
	name := o.Branch
	if name == "" {
		name = w.git.guest.Head
	}
	if name == "" || o.Branch == "" && h.Tracked[name] == "" {
		name = h.Branch
	}
	at := h.Tracked[name]
	if at == "" {
		return nil, "", ui.Refused("branch %s of VM %s was never fetched", ui.Clean(name), w.name).Hint("aivm git fetch " + shellQuote(w.folder.HostPath))
	}
	if f.conn == nil && !o.NoFetch {
		e.UI.Say("VM %s does not answer: this is what was fetched last", w.name)
	}
	return w, at, nil
}

// showGit prints git's output line by line, made harmless: it holds what a
// guest wrote.
func (e *Env) showGit(ctx context.Context, w *want, args []string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out := &lineWriter{print: func(l string) {
		e.UI.Result("%s", l)
	}}
	err := gitsync.Show(ctx, w.git.host.Value, out, args...)
	out.flush()
	return err
}

// lineWriter hands on whole lines, and long ones in pieces.
type lineWriter struct {
	rest  []byte
	print func(string)
}

func (l *lineWriter) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		i := slices.Index(l.rest, '\n')
		if i < 0 && len(l.rest) < 1<<20 {
			return len(p), nil
		}
		if i < 0 {
			i = len(l.rest) - 1
		}
		l.print(strings.TrimSuffix(string(l.rest[:i]), "\r"))
		l.rest = l.rest[i+1:]
	}
}

func (l *lineWriter) flush() {
	if len(l.rest) > 0 {
		l.print(string(l.rest))
	}
}

func (w *want) gitResult() GitResult {
	h := w.git.host.Value
	r := GitResult{
		Schema: 1, VM: w.name, Folder: w.folder.HostPath, GuestDst: w.folder.GuestDst, Remote: w.git.remote.Name, Branch: h.Branch, Head: h.Head,
		Relation: gitsync.Relate(h, w.git.guest), Ahead: h.Ahead, Behind: h.Behind, Pushed: pushed(w.git.result.Sent), Objects: w.git.result.Sent.Objects,
		Fetched: w.git.result.Fetched, Wip: w.git.result.Wip,
	}
	if w.git.guest.State == "" { // not asked: as last seen
		seen := w.git.guest
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

func commits(n int) string {
	if n == 1 {
		return "1 commit"
	}
	return fmt.Sprintf("%d commits", n)
}

func short(oid string) string { return oid[:min(10, len(oid))] }

func entries(es []gitsync.StatusEntry) string {
	var l []string
	for _, s := range es {
		l = append(l, strings.TrimSpace(s.Code)+" "+s.Path)
	}
	return ui.Some(l, 20)
}

// quietly runs what would print results where JSON is to be the only one.
func (e *Env) quietly(f func()) {
	if !e.UI.JSON {
		f()
	}
}
