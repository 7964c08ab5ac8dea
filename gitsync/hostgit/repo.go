package hostgit

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/gitsync/writable"
	"aivm.dev/aivm/internal/ui"
)

func LFSPath(oid string) string { return path.Join(oid[:2], oid[2:4], oid) }

// Repo is a repository of this machine, found by reading and not by running
// anything in it.
type Repo struct {
	Top       string // the work tree
	GitDir    string // of this work tree
	CommonDir string // where objects, refs and configuration are

	guests *writable.Folders // what guests can write (Guarded)
	memo   *memo

	linkedMost int // how many files are searched for second names; 0 = linkedEntries
}

// Linked reports whether the work tree is one that `git worktree add` made.
func (r Repo) Linked() bool { return r.GitDir != r.CommonDir }

// Find returns the repository that folder lies in. folder is absolute and free
// of links.
func Find(folder string) (Repo, error) {
	for dir := folder; ; dir = filepath.Dir(dir) {
		dot := filepath.Join(dir, ".git")
		st, err := os.Lstat(dot)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if dir == filepath.Dir(dir) {
				return Repo{}, notRepo(folder)
			}
			continue
		case err != nil:
			return Repo{}, ui.Refused("whether %s is a git repository could not be seen: %w", ui.Clean(folder), err)
		}
		if st.Mode()&fs.ModeSymlink != 0 || st.Mode().IsRegular() || st.IsDir() {
			return open(dir, dot)
		}
		return Repo{}, notRepo(folder)
	}
}

func notRepo(folder string) error {
	q := shellescape.Quote(folder)
	return ui.Refused("git attachment mode requires a Git worktree: %s is in none", ui.Clean(folder)).
		Hint(ui.Cmd("make it one: git -C "+q+" init && git -C "+q+" add . && git -C "+q+" commit -m start"),
			ui.CmdFor("or share the folder itself", "aivm attach "+q+" --mode shared-root"))
}

// open follows what .git says: a directory, a link to one, or a file that
// names one (gitrepository-layout(5)).
func open(top, dot string) (Repo, error) {
	bad := func(err error) (Repo, error) {
		return Repo{}, ui.Refused("the repository of %s cannot be read: %w", ui.Clean(top), err).Hint(ui.Cmd("git -C " + shellescape.Quote(top) + " status"))
	}
	dir, err := filepath.EvalSymlinks(dot)
	if err != nil {
		return bad(err)
	}
	st, err := os.Stat(dir)
	if err != nil {
		return bad(err)
	}
	if !st.IsDir() {
		text, err := ReadSmall(dir)
		if err != nil {
			return bad(err)
		}
		to, ok := strings.CutPrefix(strings.TrimRight(text, "\r\n"), "gitdir: ")
		if !ok {
			return bad(errors.New(dot + " names no directory"))
		}
		if dir, err = resolve(filepath.Dir(dir), to); err != nil {
			return bad(err)
		}
	}
	r := Repo{Top: top, GitDir: dir, CommonDir: dir, memo: &memo{}}
	text, err := ReadSmall(filepath.Join(dir, "commondir"))
	switch {
	case err == nil:
		if r.CommonDir, err = resolve(dir, strings.TrimRight(text, "\r\n")); err != nil {
			return bad(err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return bad(err)
	}
	if _, err := os.Lstat(filepath.Join(r.GitDir, "HEAD")); err != nil {
		return Repo{}, notRepo(top)
	}
	return r, nil
}

func resolve(base, p string) (string, error) {
	if !filepath.IsAbs(p) {
		p = filepath.Join(base, p)
	}
	return filepath.EvalSymlinks(p)
}

// ReadSmall reads a file git would read whole, of a size git would write.
func ReadSmall(path string) (string, error) {
	st, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if !st.Mode().IsRegular() || st.Size() > 1<<20 {
		return "", errors.New(path + " is no file of git's")
	}
	b, err := os.ReadFile(path)
	return string(b), err
}

// Places are the directories host git reads and obeys for r: who can write in
// one of them decides what git runs here.
func (r Repo) Places() []string {
	out := []string{r.Top, r.GitDir}
	if r.Linked() {
		out = append(out, r.CommonDir)
	}
	// What of a git directory can be a link to another one's (git-new-workdir).
	for _, n := range []string{"HEAD", "config", "config.worktree", "hooks", "index", "info", "info/attributes", "info/exclude", "logs", "modules", "objects", "objects/info", "objects/pack", "packed-refs", "refs", "refs/heads", "refs/tags", "shallow", "worktrees"} {
		for _, d := range []string{r.GitDir, r.CommonDir} {
			if p, err := filepath.EvalSymlinks(filepath.Join(d, n)); err == nil && !writable.Within(p, d) {
				out = append(out, p)
			}
		}
	}
	return append(out, borrowed(filepath.Join(r.CommonDir, "objects"), 5)...)
}

// borrowed are the object stores that one borrows from, and those that they
// borrow from: what they hold becomes part of what is pushed.
func borrowed(objects string, depth int) []string {
	text, err := ReadSmall(filepath.Join(objects, "info/alternates"))
	if err != nil || depth == 0 { // git goes no deeper either
		return nil
	}
	var out []string
	for _, l := range strings.Split(text, "\n") {
		if l == "" || strings.HasPrefix(l, "#") {
			continue
		}
		if q, err := strconv.Unquote(l); err == nil && strings.HasPrefix(l, `"`) {
			l = q
		}
		if p, err := resolve(objects, l); err == nil {
			out = append(append(out, p), borrowed(p, depth-1)...)
		}
	}
	return out
}

// Guarded refuses a repository that a guest can write in, or that holds a
// folder a guest can write: git there would run what the guest wants. The git
// runs of r that follow refuse a configuration that a guest can write.
// folders are those that guests may write, by the VM that may.
func (r *Repo) Guarded(folders map[string]string) error {
	g, err := writable.New(folders)
	if err != nil {
		return ui.Failed("which folders guests can write could not be seen: %w", err)
	}
	r.guests, r.memo = g, &memo{}
	for _, p := range r.Places() {
		w, vm, yes := g.Inside(p)
		if t, err := writable.Trail(p); err == nil && !yes {
			for _, at := range t {
				if w, vm, yes = g.Holding(at); yes {
					break
				}
			}
		}
		if yes {
			q := shellescape.Quote(w)
			return ui.Refused("git mode is refused for %s: VM %s can write %s, so git on this machine could be made to run what that VM wants", ui.Clean(r.Top), vm, ui.Clean(w)).
				Hint(ui.CmdFor("take the share away first", "aivm detach "+q+" --vm "+vm),
					ui.CmdFor("and, if that VM needs it, share it to be read only", "aivm attach "+q+" --vm "+vm+" --access ro"),
					ui.CmdFor("or clone the repository to a place of its own", "git clone --no-hardlinks "+shellescape.Quote(r.Top)+" FOLDER"))
		}
	}
	return nil
}

func (r Repo) Git(ctx context.Context, args ...string) ([]byte, error) {
	return Run(ctx, Call{Repo: r, Args: args})
}
