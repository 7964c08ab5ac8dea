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

// maxChanges bounds the files a pull may change: a tree that contains itself many times expands to
// more files than any disk holds.
const maxChanges = 500_000

// A Change is a file that a pull adds, changes or removes.
type Change struct {
	Path   string `json:"path"`
	What   string `json:"what"` // git's letter: A, M, D, T
	Mode   string `json:"-"`
	Object string `json:"-"`
}

// Changes lists the files that differ between two commits. It follows no renames and no submodules.
func Changes(ctx context.Context, h compare.Host, from, to string) ([]Change, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out := &records{limit: 2 * maxChanges, full: cancel}
	_, err := hostgit.Run(ctx, hostgit.Call{
		Repo: h.Repo, Stdout: out,
		Args: []string{"diff-tree", "-r", "-z", "--no-renames", "--raw", "--no-ext-diff", "--no-textconv", "--ignore-submodules=none", "--full-index", from, to, "--"},
	})
	if out.cut {
		return nil, ui.Refused("branch %s of the VM changes more than %d files", ui.Clean(h.Branch), maxChanges).Hint(ui.Remark("review the branch in the VM, and copy the files you need manually"))
	}
	if err != nil {
		return nil, hostgit.ReadError(h.Repo, err)
	}
	var cs []Change
	for i := 0; i+1 < len(out.list); i += 2 {
		// ":OLDMODE NEWMODE OLD NEW LETTER"
		f := strings.Fields(strings.TrimPrefix(out.list[i], ":"))
		if len(f) != 5 {
			return nil, fmt.Errorf("cannot parse %q of git diff-tree", ui.CleanTo(out.list[i], 100))
		}
		cs = append(cs, Change{Path: out.list[i+1], What: f[4][:1], Mode: f[1], Object: f[3]})
	}
	return cs, nil
}

// Base returns the merge base of the host's branch and the guest's as last fetched, or the host's
// own commit if they have no common history.
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

// Size returns how many bytes of file content the changes add. A small pack can expand to more than
// the disk holds.
func Size(ctx context.Context, h compare.Host, cs []Change) (int64, error) {
	l, err := sizes(ctx, h, slices.DeleteFunc(slices.Clone(cs), func(c Change) bool { return c.What == "D" || c.Mode == "160000" }))
	var total int64
	for _, n := range l {
		total += n
	}
	return total, err
}

// sizes returns the sizes of the changes' objects, in bytes.
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
			return nil, fmt.Errorf("cannot parse %q of git cat-file", ui.CleanTo(l, 100))
		}
		out = append(out, n)
	}
	if len(out) != len(cs) {
		return nil, fmt.Errorf("git cat-file printed %d of %d sizes", len(out), len(cs))
	}
	return out, nil
}

// filtersLimit bounds a pull that runs filters, which may download large files.
const filtersLimit = 4 * time.Hour

// FastForward fast-forwards the host's branch and work tree to the fetched commit. git itself
// refuses if uncommitted files would be lost. Files are written as committed: the only filters that
// run are those of allowed, with the settings that were listed.
func FastForward(ctx context.Context, h *compare.Host, allowed []hostgit.Filter) error {
	to := h.Tracked[h.Branch]
	b, err := h.Repo.Git(ctx, "symbolic-ref", "-q", "HEAD")
	if err != nil || strings.TrimRight(string(b), "\n") != "refs/heads/"+h.Branch {
		return ui.Failed("another branch was checked out in %s while aivm was running", ui.Clean(h.Repo.Top)).Hint(ui.Remark("run the command again"))
	}
	if err := h.Repo.SignaturesTrusted(ctx); err != nil {
		return err
	}
	if len(allowed) > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, filtersLimit)
		defer cancel()
	}
	_, err = hostgit.Run(ctx, hostgit.Call{Repo: h.Repo, Allow: allowed, Env: []string{"GIT_OPTIONAL_LOCKS=1", "GIT_MERGE_AUTOEDIT=no"}, Args: []string{"merge", "--ff-only", "--no-stat", "--no-autostash", "--quiet", "--no-overwrite-ignore", to, "--"}})
	if err != nil {
		q := shellescape.Quote(h.Repo.Top)
		e := ui.Refused("git refused the fast-forward: %w", err).Hint(ui.CmdFor("commit or stash your changes", "git -C "+q+" stash -u"))
		if h.Repo.HasFilters(ctx) {
			e = e.Hint(ui.CmdFor("if files only look changed because aivm runs no filters, refresh git's index", "git -C "+q+" status"))
		}
		return e.Hint(ui.CmdFor("then try again", "aivm git pull "+q))
	}
	h.Head = to
	h.Heads[h.Branch] = to
	h.Ahead, h.Behind = 0, 0
	return nil
}
