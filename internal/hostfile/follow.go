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

// id is a file's identity; the zero id is of nothing.
type id struct{ dev, ino uint64 }

// A Folder is a directory that somebody else can write.
type Folder struct {
	Path string // without links
	id   id
	up   []id // of it and of all directories above it
}

// Entry is one name a path leads through.
type Entry struct {
	Path string // without links before it
	Link string // where it leads, if it is a link
	dirs []id   // the directories it was reached through, the nearest last
}

// Way is how a path leads to what it names.
type Way struct {
	Entries []Entry
	Path    string // the end without links; as written behind what does not exist
	Exists  bool
	Err     error // why it was not followed to its end; nil for what does not exist
	isDir   bool
	id      id
}

// Tracer follows paths, and reads each directory's entry once. Its answers are
// as old as it is.
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

// Folder returns what is to be known of the directory at path.
func (t *Tracer) Folder(path string) Folder {
	path = filepath.Clean(path)
	if f, ok := t.info[path]; ok {
		return f
	}
	f := Folder{Path: path, id: t.look(path).id}
	for p := path; ; p = filepath.Dir(p) {
		if n := t.look(p); n.id != (id{}) {
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

func (t *Tracer) look(path string) node {
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

// Follow walks an absolute path name by name and link by link. What does not
// exist is taken as it is written: it can be made.
func (t *Tracer) Follow(name string) Way {
	var w Way
	rest := split(name)
	at, dirs := "/", []id{t.look("/").id}
	links := 0
	w.isDir, w.id = true, dirs[0]
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
			w.isDir, w.id = true, dirs[len(dirs)-1]
			continue
		}
		next := filepath.Join(at, part)
		n := t.look(next)
		w.Entries = append(w.Entries, Entry{Path: next, Link: n.link, dirs: slices.Clip(dirs)})
		if n.err != nil {
			w.Path = filepath.Join(append([]string{next}, rest...)...)
			if !errors.Is(n.err, fs.ErrNotExist) && !errors.Is(n.err, syscall.ENOTDIR) {
				w.Err = n.err
			}
			for p := next; len(rest) > 0; rest = rest[1:] {
				p = filepath.Join(p, rest[0])
				w.Entries = append(w.Entries, Entry{Path: p, dirs: slices.Clip(dirs)})
			}
			return w
		}
		if n.link == "" {
			at, w.isDir, w.id = next, n.isDir, n.id
			dirs = append(slices.Clip(dirs), n.id)
			continue
		}
		if links++; links > maxLinks {
			w.Path, w.Err = next, &fs.PathError{Op: "open", Path: name, Err: syscall.ELOOP}
			return w
		}
		if filepath.IsAbs(n.link) {
			at, dirs = "/", dirs[:1:1]
		}
		rest = append(strings.Split(n.link, "/"), rest...)
	}
	w.Path, w.Exists = at, true
	return w
}

func split(name string) []string {
	return strings.Split(strings.Trim(filepath.Clean(name), "/"), "/")
}

// Through returns the first name of the way that somebody who can write the
// folder can replace, or fill in: it lies in the folder. A way that ends at the
// folder itself counts too.
func (w Way) Through(f Folder) (Entry, bool) {
	for i, e := range w.Entries {
		last := i == len(w.Entries)-1
		if below(e.Path, f.Path) || last && w.Path == f.Path || f.id != (id{}) && (slices.Contains(e.dirs, f.id) || last && w.id == f.id) {
			return e, true
		}
	}
	return Entry{}, false
}

// Link returns the first link of the way that lies in the folder: who can write
// there may have put it there.
func (w Way) Link(f Folder) (Entry, bool) {
	for _, e := range w.Entries {
		if e.Link != "" && (below(e.Path, f.Path) || f.id != (id{}) && slices.Contains(e.dirs, f.id)) {
			return e, true
		}
	}
	return Entry{}, false
}

// Holds reports whether the way ends at a directory in which the folder lies,
// or at the folder.
func (w Way) Holds(f Folder) bool {
	if f.Path == w.Path {
		return true
	}
	if w.Exists && !w.isDir {
		return false
	}
	return below(f.Path, w.Path) || w.Exists && w.id != (id{}) && slices.Contains(f.up, w.id)
}

// below reports whether p lies below dir.
func below(p, dir string) bool {
	return len(p) > len(dir) && strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}
