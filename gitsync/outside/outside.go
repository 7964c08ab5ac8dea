// Package outside finds the directories outside a folder that git needs to work in it: the
// repository of a linked work tree or submodule, whose .git is a file, and object stores
// that a repository borrows from (gitrepository-layout(5)).
//
// A guest may have written everything in the folder: only small regular files are read,
// without blocking, and no answer has more than MaxNeeds entries. What the folder says about
// a directory outside counts as confirmed only if that directory says the same.
package outside

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"aivm.dev/aivm/gitsync/writable"
	"aivm.dev/aivm/internal/hostfile"
)

// Kind is what git needs a directory for.
type Kind string

// The kinds.
const (
	Worktree  Kind = "worktree"  // the folder is a linked work tree of the repository
	Submodule Kind = "submodule" // the folder is a submodule's work tree; its git directory is in the superproject
	GitDir    Kind = "gitdir"    // the folder's .git names another git directory
	Parent    Kind = "parent"    // the folder is a part of the repository's work tree
	Objects   Kind = "objects"   // an object store with objects that the repository lacks
)

// A Need is one directory outside the folder.
type Need struct {
	Kind Kind
	Path string // without symbolic links
	// Named is the same directory as git looks it up: an absolute path, or one relative to
	// the folder, which may contain symbolic links.
	Named string
	File  string // the file or link in the folder that names it, relative to the folder
	Top   string // the folder to attach, so that a guest has the directory
	// Confirmed: the directory names the folder too. A file of the folder alone may have
	// been written by a guest.
	Confirmed bool
}

// Limits.
const (
	MaxNeeds    = 8
	maxFile     = 64 << 10
	maxBorrowed = 32 // object stores followed
	// MaxDepth is how deep git follows alternates of alternates.
	MaxDepth = 5
)

// Find returns what git needs from outside the folder, an absolute path without symbolic
// links. It returns nothing for a directory that does not exist: git does not work in such a
// folder on this machine either.
func Find(folder string) []Need {
	f := finder{folder: folder}
	dot := filepath.Join(folder, ".git")
	gitDir, named := folder, "" // a bare repository is a folder with the files of a git directory
	st, err := os.Lstat(dot)
	switch {
	case err != nil:
	case st.Mode().IsRegular():
		text, ok := strings.CutPrefix(small(dot), "gitdir: ")
		if named = strings.TrimRight(text, "\r\n"); !ok || named == "" {
			return nil
		}
		gitDir = resolve(folder, named)
	case st.Mode()&os.ModeSymlink != 0:
		if named, err = os.Readlink(dot); err != nil {
			return nil
		}
		gitDir = resolve(folder, named)
	case st.IsDir():
		gitDir = dot
	}
	if !isFile(filepath.Join(gitDir, "HEAD")) {
		if gitDir == folder && errors.Is(err, fs.ErrNotExist) {
			f.above()
		}
		return f.needs
	}
	common := gitDir
	if to := strings.TrimRight(small(filepath.Join(gitDir, "commondir")), "\r\n"); to != "" {
		if common = resolve(gitDir, to); common == "" {
			return nil
		}
	}
	if named != "" {
		n := Need{Kind: GitDir, Path: gitDir, Named: named, File: ".git", Top: top(gitDir)}
		switch {
		case common != gitDir:
			n.Kind, n.Confirmed = Worktree, resolve(gitDir, strings.TrimRight(small(filepath.Join(gitDir, "gitdir")), "\r\n")) == dot
		case slices.Contains(strings.Split(gitDir, "/"), "modules"):
			n.Kind, n.Confirmed = Submodule, worktreeOf(gitDir) == folder
		}
		f.add(n)
	}
	if common != gitDir && !writable.Within(common, folder) && !writable.Within(common, top(gitDir)) {
		f.add(Need{Kind: GitDir, Path: common, Named: common, File: f.rel(filepath.Join(gitDir, "commondir")), Top: top(common)})
	}
	objects := filepath.Join(common, "objects")
	if to, err := os.Readlink(objects); err == nil {
		if p := resolve(common, to); p != "" {
			f.add(Need{Kind: Objects, Path: p, Named: absolute(common, to), File: f.rel(objects), Top: top(p)})
		}
	}
	f.borrowed(objects, 1)
	return f.needs
}

type finder struct {
	folder   string
	needs    []Need
	followed int
}

// add keeps a need that lies outside the folder and can be attached.
func (f *finder) add(n Need) {
	known := slices.ContainsFunc(f.needs, func(o Need) bool { return o.Path == n.Path })
	if n.Path == "" || known || writable.Within(n.Path, f.folder) || len(f.needs) == MaxNeeds || !utf8.ValidString(n.Path+n.Named) || strings.ContainsAny(n.Path, "\n\r") {
		return
	}
	f.needs = append(f.needs, n)
}

// above adds the repository in whose work tree the folder lies.
func (f *finder) above() {
	for dir := filepath.Dir(f.folder); dir != "/"; dir = filepath.Dir(dir) {
		dot := filepath.Join(dir, ".git")
		if _, err := os.Lstat(dot); err == nil {
			f.add(Need{Kind: Parent, Path: dot, Named: dot, File: dot, Top: dir, Confirmed: true})
			return
		}
	}
}

// rel returns a path of the folder relative to it, and others as they are.
func (f *finder) rel(p string) string {
	if writable.Within(p, f.folder) {
		if r, err := filepath.Rel(f.folder, p); err == nil {
			return r
		}
	}
	return p
}

// borrowed adds the object stores that objects borrows from.
func (f *finder) borrowed(objects string, depth int) {
	file := filepath.Join(objects, "info/alternates")
	for _, line := range Alternates(small(file)) {
		if f.followed++; f.followed > maxBorrowed {
			return
		}
		p := resolve(objects, line)
		if p == "" || !isObjects(p) {
			continue
		}
		f.add(Need{Kind: Objects, Path: p, Named: absolute(objects, line), File: f.rel(file), Top: top(p)})
		if depth < MaxDepth {
			f.borrowed(p, depth+1)
		}
	}
}

// Alternates returns the object stores that the text of a file info/alternates names, as it names them.
func Alternates(text string) (out []string) {
	for line := range strings.SplitSeq(text, "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		if q, err := strconv.Unquote(line); err == nil && line[0] == '"' {
			line = q
		}
		out = append(out, line)
	}
	return out
}

// top returns the folder that contains a git directory or object store with all that git
// reads of it: the work tree above its .git, or the bare repository.
func top(path string) string {
	if at := strings.LastIndex(path+"/", "/.git/"); at > 0 {
		return path[:at]
	}
	for p := path; p != "/"; p = filepath.Dir(p) {
		if isFile(filepath.Join(p, "HEAD")) && isDir(filepath.Join(p, "objects")) {
			return p
		}
	}
	return path
}

// worktreeOf returns the work tree that a submodule's configuration names. Git writes it as
// one line "worktree = PATH".
func worktreeOf(gitDir string) string {
	for line := range strings.Lines(small(filepath.Join(gitDir, "config"))) {
		if key, value, ok := strings.Cut(line, "="); ok && strings.EqualFold(strings.TrimSpace(key), "worktree") {
			value = strings.TrimSpace(value)
			if q, err := strconv.Unquote(value); err == nil {
				value = q
			}
			return resolve(gitDir, value)
		}
	}
	return ""
}

// small returns the content of a small regular file that no link leads to, or "".
func small(path string) string {
	b, err := hostfile.Read(path, maxFile)
	if err != nil || strings.ContainsRune(string(b), 0) {
		return ""
	}
	return string(b)
}

// absolute returns a path that a file in dir names, without resolving links.
func absolute(dir, p string) string {
	if filepath.IsAbs(p) {
		return filepath.Clean(p)
	}
	return filepath.Join(dir, p)
}

// resolve is absolute without symbolic links, or "" if that does not exist.
func resolve(dir, p string) string {
	if p == "" || len(p) > 4096 {
		return ""
	}
	out, err := filepath.EvalSymlinks(absolute(dir, p))
	if err != nil {
		return ""
	}
	return out
}

func isFile(p string) bool {
	st, err := os.Lstat(p)
	return err == nil && (st.Mode().IsRegular() || st.Mode()&os.ModeSymlink != 0)
}

func isDir(p string) bool {
	st, err := os.Stat(p)
	return err == nil && st.IsDir()
}

// isObjects reports whether p is the object store of a repository.
func isObjects(p string) bool {
	return isDir(p) && (isDir(filepath.Join(p, "pack")) || isDir(filepath.Join(p, "info")))
}
