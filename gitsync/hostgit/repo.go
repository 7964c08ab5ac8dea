package hostgit

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/gitsync/outside"
	"aivm.dev/aivm/gitsync/writable"
	"aivm.dev/aivm/internal/hostfile"
	"aivm.dev/aivm/internal/ui"
)

// LFSPath returns the path of a git-lfs object below lfs/objects.
func LFSPath(oid string) string { return path.Join(oid[:2], oid[2:4], oid) }

// Repo is a repository on the host, found by reading files and without running anything in it.
type Repo struct {
	Top       string // the work tree
	GitDir    string // of this work tree
	CommonDir string // where objects, refs and configuration are

	guests *writable.Folders // folders guests can write; set by Guarded
	cache  *settingsCache

	maxLinkedSearch int // bounds the search for hard links; 0 means linkedEntries
}

// Linked reports whether the work tree was created by `git worktree add`.
func (r Repo) Linked() bool { return r.GitDir != r.CommonDir }

// Find returns the repository that contains folder, an absolute path without symbolic links.
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
			return Repo{}, ui.Refused("checking whether %s is a git repository: %w", ui.Clean(folder), err)
		}
		if st.Mode()&fs.ModeSymlink != 0 || st.Mode().IsRegular() || st.IsDir() {
			return open(dir, dot)
		}
		return Repo{}, notRepo(folder)
	}
}

func notRepo(folder string) error {
	q := shellescape.Quote(folder)
	return ui.Refused("git attachment mode requires a Git worktree: %s is not in one", ui.Clean(folder)).
		Hint(ui.CmdFor("make it a git repository", "git -C "+q+" init && git -C "+q+" add . && git -C "+q+" commit -m start"),
			ui.CmdFor("or share the folder instead", "aivm attach "+q+" --mode shared-root"))
}

// open resolves .git, which is a directory, a link to one, or a file that names one
// (gitrepository-layout(5)).
func open(top, dot string) (Repo, error) {
	bad := func(err error) (Repo, error) {
		return Repo{}, ui.Refused("reading the git repository of %s: %w", ui.Clean(top), err).Hint(ui.Cmd("git -C " + shellescape.Quote(top) + " status"))
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
			return bad(errors.New(dot + " does not name a directory"))
		}
		if dir, err = resolve(filepath.Dir(dir), to); err != nil {
			return bad(err)
		}
	}
	r := Repo{Top: top, GitDir: dir, CommonDir: dir, cache: &settingsCache{}}
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

// ReadSmall reads a file of git's, a regular one of at most 1 MB. It opens the file only once
// and without blocking: a guest may be able to replace it by a pipe at any time.
func ReadSmall(path string) (string, error) {
	b, err := hostfile.ReadFollowed(path, 1<<20)
	return string(b), err
}

// Places lists the directories that host git reads and obeys for r: a guest that can write one of
// them decides what git runs on the host.
func (r Repo) Places() []string {
	out := []string{r.Top, r.GitDir}
	if r.Linked() {
		out = append(out, r.CommonDir)
	}
	// Entries of a git directory that can be links into another one (git-new-workdir).
	for _, n := range []string{"HEAD", "config", "config.worktree", "hooks", "index", "info", "info/attributes", "info/exclude", "logs", "modules", "objects", "objects/info", "objects/pack", "packed-refs", "refs", "refs/heads", "refs/tags", "shallow", "worktrees"} {
		for _, d := range []string{r.GitDir, r.CommonDir} {
			if p, err := filepath.EvalSymlinks(filepath.Join(d, n)); err == nil && !writable.Within(p, d) {
				out = append(out, p)
			}
		}
	}
	return append(out, alternates(filepath.Join(r.CommonDir, "objects"))...)
}

// alternates lists the object stores that objects borrows from, directly and indirectly: their
// content becomes part of what is pushed. It reads each store once, however many name it.
func alternates(objects string) (out []string) {
	seen := map[string]bool{objects: true}
	level := []string{objects}
	for range outside.MaxDepth {
		var next []string
		for _, o := range level {
			text, err := ReadSmall(filepath.Join(o, "info/alternates"))
			if err != nil {
				continue
			}
			for _, l := range outside.Alternates(text) {
				if p, err := resolve(o, l); err == nil && !seen[p] {
					seen[p] = true
					next = append(next, p)
				}
			}
		}
		out, level = append(out, next...), next
	}
	return out
}

// Guarded refuses a repository that is in a folder a guest can write, or contains one: a guest
// could choose what git runs there. Later git runs of r refuse a configuration that a guest can
// write. folders maps each folder guests can write to the VM.
func (r *Repo) Guarded(folders map[string]string) error {
	g, err := writable.New(folders)
	if err != nil {
		return ui.Failed("checking which folders guests can write: %w", err)
	}
	r.guests, r.cache = g, &settingsCache{}
	for _, p := range r.Places() {
		w, vm, yes := g.FolderBelow(p)
		if t, err := writable.Trail(p); err == nil && !yes {
			for _, at := range t {
				if w, vm, yes = g.FolderAround(at); yes {
					break
				}
			}
		}
		if yes {
			q := shellescape.Quote(w)
			return ui.Refused("git mode is refused for %s: VM %s can write %s, so that VM could choose what git runs on this machine", ui.Clean(r.Top), vm, ui.Clean(w)).
				Hint(ui.CmdFor("detach the folder first", "aivm detach "+q+" --vm "+vm),
					ui.CmdFor("then, if that VM needs it, attach it read-only", "aivm attach "+q+" --vm "+vm+" --access ro"),
					ui.Remark("or clone the repository to a folder that no VM can write: git clone --no-hardlinks "+shellescape.Quote(r.Top)+" FOLDER"))
		}
	}
	return nil
}

// Git runs git in r and returns its output.
func (r Repo) Git(ctx context.Context, args ...string) ([]byte, error) {
	return Run(ctx, Call{Repo: r, Args: args})
}
