package hostfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// maxLinks is the kernel's own limit.
const maxLinks = 40

// id identifies a file by device and inode; the zero id means no file.
type id struct{ dev, ino uint64 }

// A Folder is a directory that a guest can write.
type Folder struct {
	Path string // without links
	id   id
	up   []id // of the folder and of all directories above it
}

// Entry is one name on a path.
type Entry struct {
	Path string // its directory has no links in it
	Link string // the target, if it is a link
	dirs []id   // the directories it was reached through, the nearest last
}

// Trace is a path followed through all its names and links.
type Trace struct {
	Entries []Entry
	Path    string // where the path ends, without links; unresolved after a name that does not exist
	Exists  bool
	Err     error // why it was not followed to its end; nil if a name does not exist
	isDir   bool
	id      id
}

// Tracer follows paths. It reads each name's state once and caches it, so it must not be kept for
// long.
type Tracer struct {
	seen map[string]node
	info map[string]Folder
}

type node struct {
	link  string
	isDir bool
	id    id
	err   error
}

// Folder returns the Folder at path, for the methods of Trace.
func (t *Tracer) Folder(path string) Folder {
	path = filepath.Clean(path)
	if f, ok := t.info[path]; ok {
		return f
	}
	f := Folder{Path: path, id: t.lstat(path).id}
	for p := path; ; p = filepath.Dir(p) {
		if n := t.lstat(p); n.id != (id{}) {
			f.up = append(f.up, n.id)
		}
		if p == filepath.Dir(p) {
			break
		}
	}
	if t.info == nil {
		t.info = map[string]Folder{}
	}
	t.info[path] = f
	return f
}

func (t *Tracer) lstat(path string) node {
	if n, ok := t.seen[path]; ok {
		return n
	}
	var n node
	st, err := os.Lstat(path)
	if n.err = err; err == nil {
		n.isDir = st.IsDir()
		if s, ok := st.Sys().(*syscall.Stat_t); ok {
			n.id = id{uint64(s.Dev), s.Ino} //nolint:unconvert // the type differs between architectures
		}
		if st.Mode()&fs.ModeSymlink != 0 {
			if n.link, n.err = os.Readlink(path); n.err == nil && n.link == "" {
				n.err = fs.ErrNotExist
			}
		}
	}
	if t.seen == nil {
		t.seen = map[string]node{}
	}
	t.seen[path] = n
	return n
}

// Follow follows an absolute path name by name and link by link. Names that do not exist are kept as
// written, since they can be created later.
func (t *Tracer) Follow(name string) Trace {
	var tr Trace
	rest := split(name)
	at, dirs := "/", []id{t.lstat("/").id}
	links := 0
	tr.isDir, tr.id = true, dirs[0]
	for len(rest) > 0 {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			if at = filepath.Dir(at); len(dirs) > 1 {
				dirs = dirs[:len(dirs)-1]
			}
			tr.isDir, tr.id = true, dirs[len(dirs)-1]
			continue
		}
		next := filepath.Join(at, part)
		n := t.lstat(next)
		tr.Entries = append(tr.Entries, Entry{Path: next, Link: n.link, dirs: slices.Clip(dirs)})
		if n.err != nil {
			tr.Path = filepath.Join(append([]string{next}, rest...)...)
			if !errors.Is(n.err, fs.ErrNotExist) && !errors.Is(n.err, syscall.ENOTDIR) {
				tr.Err = n.err
			}
			for p := next; len(rest) > 0; rest = rest[1:] {
				p = filepath.Join(p, rest[0])
				tr.Entries = append(tr.Entries, Entry{Path: p, dirs: slices.Clip(dirs)})
			}
			return tr
		}
		if n.link == "" {
			at, tr.isDir, tr.id = next, n.isDir, n.id
			dirs = append(slices.Clip(dirs), n.id)
			continue
		}
		if links++; links > maxLinks {
			tr.Path, tr.Err = next, &fs.PathError{Op: "open", Path: name, Err: syscall.ELOOP}
			return tr
		}
		if filepath.IsAbs(n.link) {
			at, dirs = "/", dirs[:1:1]
		}
		rest = append(strings.Split(n.link, "/"), rest...)
	}
	tr.Path, tr.Exists = at, true
	return tr
}

func split(name string) []string {
	return strings.Split(strings.Trim(filepath.Clean(name), "/"), "/")
}

// Through returns the first name on the path that is in the folder, so that a guest that can write
// the folder can create or replace it. A path that ends at the folder itself counts too.
func (tr Trace) Through(f Folder) (Entry, bool) {
	for i, e := range tr.Entries {
		last := i == len(tr.Entries)-1
		if below(e.Path, f.Path) || last && tr.Path == f.Path || f.id != (id{}) && (slices.Contains(e.dirs, f.id) || last && tr.id == f.id) {
			return e, true
		}
	}
	return Entry{}, false
}

// Link returns the first link on the path that is in the folder: a guest that can write the folder
// may have created it.
func (tr Trace) Link(f Folder) (Entry, bool) {
	for _, e := range tr.Entries {
		if e.Link != "" && (below(e.Path, f.Path) || f.id != (id{}) && slices.Contains(e.dirs, f.id)) {
			return e, true
		}
	}
	return Entry{}, false
}

// Holds reports whether the path ends at the folder or at a directory above it.
func (tr Trace) Holds(f Folder) bool {
	if f.Path == tr.Path {
		return true
	}
	if tr.Exists && !tr.isDir {
		return false
	}
	return below(f.Path, tr.Path) || tr.Exists && tr.id != (id{}) && slices.Contains(f.up, tr.id)
}

// below reports whether p is below dir.
func below(p, dir string) bool {
	return len(p) > len(dir) && strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}
