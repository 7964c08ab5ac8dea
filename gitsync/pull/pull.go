package pull

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/gitsync/compare"
	"aivm.dev/aivm/gitsync/hostgit"
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
func Changes(ctx context.Context, h compare.Host, from, to string) ([]Change, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out := &records{limit: 2 * maxChanges, full: cancel}
	_, err := hostgit.Run(ctx, hostgit.Call{
		Repo: h.Repo, Stdout: out,
		Args: []string{"diff-tree", "-r", "-z", "--no-renames", "--raw", "--no-ext-diff", "--no-textconv", "--ignore-submodules=none", "--full-index", from, to, "--"},
	})
	if out.cut {
		return nil, ui.Refused("what VM's branch brings is more than %d files", maxChanges).Hint(ui.Remark("look at it there, and fetch what you need by hand"))
	}
	if err != nil {
		return nil, hostgit.ReadError(h.Repo, err)
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
func Base(ctx context.Context, h compare.Host) (string, error) {
	b, err := h.Repo.Git(ctx, "merge-base", h.Head, h.Tracked[h.Branch])
	if hostgit.FailedWith(err, 1) {
		return h.Head, nil
	}
	if err != nil {
		return "", hostgit.ReadError(h.Repo, err)
	}
	return hostgit.Lines(b)[0], nil
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
func Size(ctx context.Context, h compare.Host, cs []Change) (int64, error) {
	l, err := sizes(ctx, h, slices.DeleteFunc(slices.Clone(cs), func(c Change) bool { return c.What == "D" || c.Mode == "160000" }))
	var total int64
	for _, n := range l {
		total += n
	}
	return total, err
}

// sizes are the sizes of the changes' objects.
func sizes(ctx context.Context, h compare.Host, cs []Change) ([]int64, error) {
	if len(cs) == 0 {
		return nil, nil
	}
	var in strings.Builder
	for _, c := range cs {
		in.WriteString(c.Object + "\n")
	}
	b, err := hostgit.Run(ctx, hostgit.Call{Repo: h.Repo, Args: []string{"cat-file", "--batch-check=%(objectsize)"}, Stdin: strings.NewReader(in.String())})
	if err != nil {
		return nil, hostgit.ReadError(h.Repo, err)
	}
	out := make([]int64, 0, len(cs))
	for _, l := range hostgit.Lines(b) {
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

// filtersLimit bounds a pull in which filters run: they may fetch large files.
const filtersLimit = 4 * time.Hour

// FastForward fast-forwards the host's branch, and its files, to what was fetched.
// git itself refuses if files that are not committed would be lost. Files come
// as they are committed: no filter runs but those of agreed, as they were seen.
func FastForward(ctx context.Context, h *compare.Host, agreed []hostgit.Filter) error {
	to := h.Tracked[h.Branch]
	b, err := h.Repo.Git(ctx, "symbolic-ref", "-q", "HEAD")
	if err != nil || strings.TrimRight(string(b), "\n") != "refs/heads/"+h.Branch {
		return ui.Failed("another branch was checked out in %s meanwhile", ui.Clean(h.Repo.Top)).Hint(ui.Remark("run the command again"))
	}
	if err := h.Repo.SignaturesTrusted(ctx); err != nil {
		return err
	}
	if len(agreed) > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, filtersLimit)
		defer cancel()
	}
	_, err = hostgit.Run(ctx, hostgit.Call{Repo: h.Repo, Allow: agreed, Env: []string{"GIT_OPTIONAL_LOCKS=1", "GIT_MERGE_AUTOEDIT=no"}, Args: []string{"merge", "--ff-only", "--no-stat", "--no-autostash", "--quiet", "--no-overwrite-ignore", to, "--"}})
	if err != nil {
		q := shellescape.Quote(h.Repo.Top)
		e := ui.Refused("git did not take the commits over: %w", err).Hint(ui.CmdFor("commit or put aside what is changed here", "git -C "+q+" stash -u"))
		if h.Repo.HasFilters(ctx) {
			e = e.Hint(ui.CmdFor("files that only look changed, since their filter does not run here", "git -C "+q+" status"))
		}
		return e.Hint(ui.CmdFor("then", "aivm git pull "+q))
	}
	h.Head = to
	h.Heads[h.Branch] = to
	h.Ahead, h.Behind = 0, 0
	return nil
}
