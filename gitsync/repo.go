package gitsync

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/internal/ui"
)

// Repo is a repository of this machine, found by reading and not by running
// anything in it.
type Repo struct {
	Top       string // the work tree
	GitDir    string // of this work tree
	CommonDir string // where objects, refs and configuration are
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
	q := quote(folder)
	return ui.Refused("git attachment mode requires a Git worktree: %s is in none", ui.Clean(folder)).
		Hint("make it one: git -C "+q+" init && git -C "+q+" add . && git -C "+q+" commit -m start",
			"or share the folder itself: aivm attach "+q+" --mode shared-root")
}

// open follows what .git says: a directory, a link to one, or a file that
// names one (gitrepository-layout(5)).
func open(top, dot string) (Repo, error) {
	bad := func(err error) (Repo, error) {
		return Repo{}, ui.Refused("the repository of %s cannot be read: %w", ui.Clean(top), err).Hint("git -C " + quote(top) + " status")
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
		text, err := readSmall(dir)
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
	r := Repo{Top: top, GitDir: dir, CommonDir: dir}
	text, err := readSmall(filepath.Join(dir, "commondir"))
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

// readSmall reads a file git would read whole, of a size git would write.
func readSmall(path string) (string, error) {
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
	// What a borrowed object store holds becomes part of what is pushed.
	if text, err := readSmall(filepath.Join(r.CommonDir, "objects/info/alternates")); err == nil {
		for _, l := range strings.Split(text, "\n") {
			if l != "" && !strings.HasPrefix(l, "#") {
				if p, err := resolve(filepath.Join(r.CommonDir, "objects"), l); err == nil {
					out = append(out, p)
				}
			}
		}
	}
	return out
}

// Guarded refuses a repository that a guest can write in, or that holds a
// folder a guest can write: git there would run what the guest wants.
// writable are the folders guests may write, by the VM that may.
func (r Repo) Guarded(writable map[string]string) error {
	for _, p := range r.Places() {
		for w, vm := range writable {
			if within(p, w) || within(w, p) {
				q := quote(w)
				return ui.Refused("git mode is refused for %s: VM %s can write %s, so git on this machine could be made to run what that VM wants", ui.Clean(r.Top), vm, ui.Clean(w)).
					Hint("take the share away first: aivm detach "+q+" --vm "+vm,
						"and, if that VM needs it, share it to be read only: aivm attach "+q+" --vm "+vm+" --access ro",
						"or clone the repository to a place of its own: git clone "+quote(r.Top)+" FOLDER")
			}
		}
	}
	return nil
}

// within reports whether p is dir or lies below it.
func within(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

func (r Repo) git(ctx context.Context, args ...string) ([]byte, error) {
	return run(ctx, call{dir: r.Top, args: args})
}

func quote(s string) string { return shellescape.Quote(s) }
