package hostexec

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// A File is one host-executed file.
type File struct {
	Path  string // relative to the folder, with slashes; any bytes
	Kind  Kind
	Type  string // "file", "link", "other"
	Mode  uint32 // permission bits
	Size  int64
	MTime int64  // nanoseconds since the epoch; compared if there is no Sum
	Ino   uint64 // of the file itself, also if it is a link
	Links uint64 // number of hard links
	Sum   string // SHA-256 of the content, or of a link's target; "" if it was not read
}

// A List is the result of one scan of a folder.
type List struct {
	Files []File   // sorted by Path
	Dirs  []string // directories in which every file is run, also if they are empty
	Cut   string   // why the scan is incomplete, "" if it is complete
}

// resolve restricts every open to the folder and its mount, without following links.
const resolve = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

type scanner struct {
	root    int
	list    List
	entries int
	bytes   int64
}

// folder is a directory still to be scanned.
type folder struct {
	rel   string
	depth int
	git   bool   // it is named .git, or is below such a directory
	bare  bool   // its content is that of a git directory, or it is below such a directory
	inGit string // its path relative to the git directory
}

// Scan returns the host-executed files of the folder dir. It reads directories near the top first.
// Directories that cannot be read are skipped and reported in List.Cut, not as an error.
func Scan(ctx context.Context, dir string) (List, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, dir, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return List{}, fmt.Errorf("scanning %s for files that programs on the host run: %w", dir, err)
	}
	defer unix.Close(fd)
	s := scanner{root: fd}
	queue := []folder{{rel: "."}}
	for len(queue) > 0 {
		if err := ctx.Err(); err != nil {
			return List{}, err
		}
		next := queue[0]
		queue = append(queue[1:], s.scanDir(next)...)
	}
	sort.Slice(s.list.Files, func(i, j int) bool { return s.list.Files[i].Path < s.list.Files[j].Path })
	sort.Strings(s.list.Dirs)
	return s.list, nil
}

func (s *scanner) cut(format string, args ...any) {
	if s.list.Cut == "" {
		s.list.Cut = fmt.Sprintf(format, args...)
	}
}

// scanDir reads one directory, adds the files that match and returns the directories below it.
func (s *scanner) scanDir(f folder) []folder {
	fd, err := unix.Openat2(s.root, f.rel, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: resolve})
	switch {
	case errors.Is(err, unix.EXDEV):
		return nil // another mount: the guest sees the directory it covers
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return nil // replaced since its parent was read
	case err != nil:
		s.cut("%s cannot be read: %v", f.rel, err)
		return nil
	}
	d := os.NewFile(uintptr(fd), f.rel)
	defer d.Close()
	if s.entries >= maxEntries {
		s.cut("it has more than %d files", maxEntries)
		return nil
	}
	ents, err := d.ReadDir(maxEntries - s.entries + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		s.cut("%s cannot be read: %v", f.rel, err)
	}
	s.entries += len(ents)
	if s.entries > maxEntries {
		s.cut("it has more than %d files", maxEntries)
	}
	sort.Slice(ents, func(i, j int) bool { return ents[i].Name() < ents[j].Name() })
	if !f.git && isBare(ents) {
		// Its other files are scanned too: a guest can create the files that make a directory look
		// like a git directory in order to hide the rest.
		f.bare, f.inGit = true, "."
	}
	var below []folder
	for _, e := range ents {
		rel := path.Join(f.rel, e.Name())
		if e.IsDir() {
			if isExecutedDir(rel) || (f.git || f.bare) && path.Join(f.inGit, e.Name()) == "hooks" {
				s.list.Dirs = append(s.list.Dirs, rel)
			}
			if sub, ok := descend(f, e.Name(), rel); ok {
				if sub.depth > maxDepth {
					s.cut("its directories are nested more than %d deep", maxDepth)
					continue
				}
				below = append(below, sub)
			}
			continue
		}
		kind, ok := Match(rel)
		if !ok && (f.git || f.bare) {
			kind, ok = matchGitDir(path.Join(f.inGit, e.Name()))
		}
		if ok {
			s.addFile(fd, e.Name(), rel, kind)
		}
	}
	return below
}

// isBare reports whether a directory is a git directory by its content, as git itself does: every
// git command run below such a directory obeys it, whatever its name.
func isBare(ents []os.DirEntry) bool {
	has := func(name string, dir bool) bool {
		return slices.ContainsFunc(ents, func(e os.DirEntry) bool { return e.Name() == name && e.IsDir() == dir })
	}
	return has("HEAD", false) && has("objects", true) && has("refs", true)
}

// descend returns the directory name in f and reports whether to scan it.
func descend(f folder, name, rel string) (folder, bool) {
	sub := folder{rel: rel, depth: f.depth + 1}
	if f.git || f.bare {
		in := path.Join(f.inGit, name)
		top, _, _ := strings.Cut(in, "/")
		switch {
		case top == "modules" && in != "modules":
			// A submodule's git directory, recognized by its content (isBare).
			return sub, !slices.Contains(gitData, name)
		case slices.Contains([]string{"hooks", "info", "modules", "worktrees"}, top):
			sub.git, sub.bare, sub.inGit = f.git, f.bare, in
			return sub, true
		case f.git || slices.Contains(gitData, name):
			return sub, false
		}
	}
	switch {
	case name == ".git":
		sub.git, sub.inGit = true, "."
		return sub, true
	case name == ".venv", name == "venv", path.Base(f.rel) == ".venv", path.Base(f.rel) == "venv":
		return sub, name == ".venv" || name == "venv" || name == "bin"
	}
	if parent := path.Base(f.rel); parent == "bin" && (path.Base(path.Dir(f.rel)) == ".venv" || path.Base(path.Dir(f.rel)) == "venv") {
		return sub, false
	}
	return sub, !slices.Contains(skipped, name)
}

// addFile adds the file name of the open directory dir to the list.
func (s *scanner) addFile(dir int, name, rel string, kind Kind) {
	if len(s.list.Files) >= MaxFiles {
		s.cut("it has more than %d such files", MaxFiles)
		return
	}
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			s.cut("the state of %s cannot be read: %v", rel, err)
		}
		return
	}
	f := File{Path: rel, Kind: kind, Type: "other", Mode: st.Mode & 0o7777, Size: st.Size, MTime: st.Mtim.Nano(), Ino: st.Ino, Links: uint64(st.Nlink)} //nolint:unconvert // the type of Nlink differs between architectures
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		f.Type = "file"
		f.Sum = s.sum(dir, name, rel, st)
	case unix.S_IFLNK:
		f.Type, f.Mode = "link", 0
		buf := make([]byte, unix.PathMax)
		if n, err := unix.Readlinkat(dir, name, buf); err == nil {
			f.Sum = digest(buf[:n])
		}
	}
	s.list.Files = append(s.list.Files, f)
}

// sum returns the SHA-256 of a regular file, or "" if it is larger than what remains of MaxBytes or
// cannot be read. It opens the file without blocking, since a guest may have replaced it by a pipe.
func (s *scanner) sum(dir int, name, rel string, st unix.Stat_t) string {
	if st.Size > MaxBytes-s.bytes {
		s.cut("such files have more than %d MB in total: %s and others are compared by size and time only", MaxBytes>>20, rel)
		return ""
	}
	fd, err := unix.Openat2(dir, name, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC, Resolve: resolve})
	if err != nil {
		s.cut("%s cannot be read: %v", rel, err)
		return ""
	}
	r := os.NewFile(uintptr(fd), rel)
	defer r.Close()
	var now unix.Stat_t
	if err := unix.Fstat(fd, &now); err != nil || now.Mode&unix.S_IFMT != unix.S_IFREG {
		return ""
	}
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(r, MaxBytes-s.bytes))
	s.bytes += n
	if err != nil {
		s.cut("%s cannot be read: %v", rel, err)
		return ""
	}
	return hex.EncodeToString(h.Sum(nil))
}

func digest(b []byte) string {
	d := sha256.Sum256(b)
	return hex.EncodeToString(d[:])
}
