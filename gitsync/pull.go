package gitsync

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"aivm.dev/aivm/internal/ui"
)

// maxChanges bounds what a pull may bring: a tree that names itself often
// enough unfolds to more files than any disk has.
const maxChanges = 500_000

// A Change is a file that a pull brings, changes or takes away.
type Change struct {
	Path   string `json:"path"`
	What   string `json:"what"` // git's letter: A, M, D, T
	Mode   string `json:"-"`
	Object string `json:"-"`
}

// Changes lists what lies between two commits, without following anything.
func Changes(ctx context.Context, h Host, from, to string) ([]Change, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out := &records{limit: 2 * maxChanges, full: cancel}
	_, err := run(ctx, call{
		repo: h.Repo, stdout: out,
		args: []string{"diff-tree", "-r", "-z", "--no-renames", "--raw", "--no-ext-diff", "--no-textconv", "--ignore-submodules=none", "--full-index", from, to, "--"},
	})
	if out.cut {
		return nil, ui.Refused("what VM's branch brings is more than %d files", maxChanges).Hint("look at it there, and fetch what you need by hand")
	}
	if err != nil {
		return nil, readError(h.Repo, err)
	}
	var cs []Change
	for i := 0; i+1 < len(out.list); i += 2 {
		// ":OLDMODE NEWMODE OLD NEW LETTER"
		f := strings.Fields(strings.TrimPrefix(out.list[i], ":"))
		if len(f) != 5 {
			return nil, fmt.Errorf("git diff-tree: %q is not understood", ui.CleanTo(out.list[i], 100))
		}
		cs = append(cs, Change{Path: out.list[i+1], What: f[4][:1], Mode: f[1], Object: f[3]})
	}
	return cs, nil
}

// Base is the commit from which the host's branch and what was last seen of the
// guest's went on; the host's own if their histories have none in common.
func Base(ctx context.Context, h Host) (string, error) {
	b, err := h.Repo.git(ctx, "merge-base", h.Head, h.Tracked[h.Branch])
	if failedWith(err, 1) {
		return h.Head, nil
	}
	if err != nil {
		return "", readError(h.Repo, err)
	}
	return lines(b)[0], nil
}

// records splits a stream at NUL bytes.
type records struct {
	list  []string
	rest  []byte
	limit int
	full  func()
	cut   bool
}

func (r *records) Write(p []byte) (int, error) {
	r.rest = append(r.rest, p...)
	for !r.cut {
		i := bytes.IndexByte(r.rest, 0)
		if i < 0 {
			break
		}
		r.list = append(r.list, string(r.rest[:i]))
		r.rest = r.rest[i+1:]
		if len(r.list) >= r.limit {
			r.cut = true
			r.full()
		}
	}
	return len(p), nil
}

// Size is how many bytes of files the changes bring. What fits on the wire can
// unfold to more than a disk holds.
func Size(ctx context.Context, h Host, cs []Change) (int64, error) {
	l, err := sizes(ctx, h, slices.DeleteFunc(slices.Clone(cs), func(c Change) bool { return c.What == "D" || c.Mode == "160000" }))
	var total int64
	for _, n := range l {
		total += n
	}
	return total, err
}

// sizes are the sizes of the changes' objects.
func sizes(ctx context.Context, h Host, cs []Change) ([]int64, error) {
	if len(cs) == 0 {
		return nil, nil
	}
	var in strings.Builder
	for _, c := range cs {
		in.WriteString(c.Object + "\n")
	}
	b, err := run(ctx, call{repo: h.Repo, args: []string{"cat-file", "--batch-check=%(objectsize)"}, stdin: strings.NewReader(in.String())})
	if err != nil {
		return nil, readError(h.Repo, err)
	}
	out := make([]int64, 0, len(cs))
	for _, l := range lines(b) {
		n, err := strconv.ParseInt(l, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("git cat-file: %q is not understood", ui.CleanTo(l, 100))
		}
		out = append(out, n)
	}
	if len(out) != len(cs) {
		return nil, fmt.Errorf("git cat-file answered %d of %d", len(out), len(cs))
	}
	return out, nil
}

// Hazards are the files among changes that this machine is going to run or
// obey: what runs names, what git's configuration reads or runs, what became
// executable, links that lead out of the repository, submodules.
func Hazards(ctx context.Context, h Host, cs []Change, runs func(string) bool) ([]string, error) {
	var out []string
	obeyed, err := h.obeyedFiles(ctx)
	if err != nil {
		return nil, err
	}
	var links []Change
	for _, c := range cs {
		why := obeyed.why(c.Path)
		if at := filepath.Join(h.Repo.Top, c.Path); within(at, h.Repo.GitDir) || within(at, h.Repo.CommonDir) {
			why = "git reads it: its own directory"
		}
		switch {
		case c.What == "D" && (why != "" || obeyedName(c.Path)):
			out = append(out, c.Path+" (taken away)")
		case c.What == "D":
		case why != "":
			out = append(out, c.Path+" ("+why+")")
		case obeyedName(c.Path):
			out = append(out, c.Path)
		case runs(c.Path):
			out = append(out, c.Path)
		case c.Mode == "100755":
			out = append(out, c.Path+" (executable)")
		case c.Mode == "120000":
			links = append(links, c)
		case c.Mode == "160000":
			out = append(out, c.Path+" (submodule)")
		}
	}
	// What git obeys comes first: a list can be long.
	slices.SortStableFunc(out, func(a, b string) int { return rank(a) - rank(b) })
	if len(links) == 0 {
		return out, nil
	}
	sizes, err := sizes(ctx, h, links)
	if err != nil {
		return nil, err
	}
	var in strings.Builder
	kept := links[:0]
	for i, c := range links {
		if sizes[i] > 4096 { // PATH_MAX: git can make no link of it
			out = append(out, c.Path+" (a link that is none)")
			continue
		}
		kept = append(kept, c)
		in.WriteString(c.Object + "\n")
	}
	links = kept
	b, err := run(ctx, call{repo: h.Repo, args: []string{"cat-file", "--batch"}, stdin: strings.NewReader(in.String())})
	if err != nil {
		return nil, readError(h.Repo, err)
	}
	r := bufio.NewReader(bytes.NewReader(b))
	for _, c := range links {
		head, err := r.ReadString('\n')
		f := strings.Fields(head)
		if err != nil || len(f) != 3 {
			return nil, fmt.Errorf("git cat-file: %q is not understood", ui.CleanTo(head, 100))
		}
		n, err := atoi(f[2])
		if err != nil {
			return nil, err
		}
		to := make([]byte, n+1)
		if _, err := io.ReadFull(r, to); err != nil {
			return nil, err
		}
		target := string(to[:n])
		end := path.Join(path.Dir(c.Path), target)
		if path.IsAbs(target) || end == ".." || strings.HasPrefix(end, "../") {
			out = append(out, c.Path+" (link to "+target+")")
		}
	}
	return out, nil
}

// rank is 0 for a file that git's settings or links in the home name, 1 for one that git knows.
func rank(hazard string) int {
	switch {
	case strings.Contains(hazard, " (git "), strings.HasSuffix(hazard, " leads to it)"):
		return 0
	case obeyedName(strings.TrimSuffix(hazard, " (taken away)")):
		return 1
	}
	return 2
}

// filtersLimit bounds a pull in which filters run: they may fetch large files.
const filtersLimit = 4 * time.Hour

// Pull fast-forwards the host's branch, and its files, to what was fetched.
// git itself refuses if files that are not committed would be lost. Files come
// as they are committed: no filter runs but those of agreed, as they were seen.
func Pull(ctx context.Context, h *Host, agreed []Filter) error {
	to := h.Tracked[h.Branch]
	b, err := h.Repo.git(ctx, "symbolic-ref", "-q", "HEAD")
	if err != nil || strings.TrimRight(string(b), "\n") != "refs/heads/"+h.Branch {
		return ui.Failed("another branch was checked out in %s meanwhile", ui.Clean(h.Repo.Top)).Hint("run the command again")
	}
	if err := h.Repo.signed(ctx); err != nil {
		return err
	}
	if len(agreed) > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, filtersLimit)
		defer cancel()
	}
	_, err = run(ctx, call{repo: h.Repo, allow: agreed, env: []string{"GIT_OPTIONAL_LOCKS=1", "GIT_MERGE_AUTOEDIT=no"}, args: []string{"merge", "--ff-only", "--no-stat", "--no-autostash", "--quiet", "--no-overwrite-ignore", to, "--"}})
	if err != nil {
		q := quote(h.Repo.Top)
		e := ui.Refused("git did not take the commits over: %w", err).Hint("commit or put aside what is changed here: git -C " + q + " stash -u")
		if s, err := h.Repo.settings(ctx); err == nil && len(s.drivers()) > 0 {
			e = e.Hint("files that only look changed, since their filter does not run here: git -C " + q + " status")
		}
		return e.Hint("then: aivm git pull " + q)
	}
	h.Head = to
	h.Heads[h.Branch] = to
	h.Ahead, h.Behind = 0, 0
	return nil
}

// signed refuses a merge that checks signatures as a file of the work tree says,
// which a commit can change.
func (r Repo) signed(ctx context.Context) error {
	s, err := r.settings(ctx)
	if err != nil {
		return err
	}
	checks := false
	for _, v := range s.all {
		if v.key == "merge.verifysignatures" {
			checks = !slices.Contains([]string{"false", "no", "off", "0", ""}, strings.ToLower(v.value))
		}
	}
	if !checks {
		return nil
	}
	for _, v := range s.all {
		t, _ := trail(v.file)
		if section, _ := sectionOf(v.key); section == "gpg" && len(r.below(t)) > 0 {
			return ui.Refused("signatures would be checked as %s says, a file of the work tree, which a commit can change (%s)", ui.Clean(v.file), ui.Clean(v.key)).
				Hint(unsetHint(v))
		}
	}
	return nil
}

// Show runs a git that only prints, for people: no program of the repository's
// choosing formats the output, and what comes from the guest's commits is the
// caller's to clean.
func Show(ctx context.Context, h Host, out io.Writer, args ...string) error {
	_, err := run(ctx, call{repo: h.Repo, stdout: out, args: args})
	if err != nil && ctx.Err() == nil {
		return readError(h.Repo, err)
	}
	return err
}
