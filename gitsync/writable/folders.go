package writable

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/mountinfo"
)

// Folders holds the folders on the host that guests can write.
type Folders struct {
	vms       map[string]string // folder -> VM
	locations map[string]location
	infos     map[string]fs.FileInfo
	mounts    map[int]mountinfo.Mount
}

// location is a path within a file system, the same through whichever mount it is reached.
type location struct{ dev, path string }

// New returns the Folders for a map from folder to the VM whose guest can write it.
func New(writable map[string]string) (*Folders, error) {
	g := &Folders{vms: writable, locations: map[string]location{}, infos: map[string]fs.FileInfo{}, mounts: map[int]mountinfo.Mount{}}
	if len(writable) == 0 {
		return g, nil
	}
	ms, err := mountinfo.Read(mountinfo.Self)
	if err != nil {
		return nil, err
	}
	for _, m := range ms {
		g.mounts[m.ID] = m
	}
	for w := range writable {
		if s, ok := g.locate(w); ok {
			g.locations[w] = s
		}
		if st, err := os.Stat(w); err == nil {
			g.infos[w] = st
		}
	}
	return g, nil
}

// Existing lists the folders that exist.
func (g *Folders) Existing() []string { return slices.Sorted(maps.Keys(g.infos)) }

// VM returns the VM whose guest can write the folder.
func (g *Folders) VM(folder string) string { return g.vms[folder] }

// FileSystem returns the device of the file system that a directory is in, "" if it cannot be
// determined.
func (g *Folders) FileSystem(dir string) string {
	at, _ := g.locate(dir)
	return at.dev
}

// locate returns the location of an existing path.
func (g *Folders) locate(p string) (location, bool) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, p, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID, &st); err != nil || st.Mask&unix.STATX_MNT_ID == 0 {
		return location{}, false
	}
	m, ok := g.mounts[int(st.Mnt_id)]
	if !ok {
		return location{}, false
	}
	rel, err := filepath.Rel(m.Point, p)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return location{}, false
	}
	return location{m.Dev, filepath.Join(m.Root, rel)}, true
}

// FolderAround returns the guest-writable folder that contains p, and its VM. It compares names and
// inodes, and sees through other mounts.
func (g *Folders) FolderAround(p string) (folder, vm string, yes bool) {
	if g == nil || len(g.vms) == 0 {
		return "", "", false
	}
	var up []fs.FileInfo
	var at location
	placed := false
	for d, rest := p, ""; ; d = filepath.Dir(d) {
		if st, err := os.Lstat(d); err == nil {
			up = append(up, st)
			if !placed {
				if at, placed = g.locate(d); placed {
					at.path = filepath.Join(at.path, rest)
				}
			}
		}
		if d == filepath.Dir(d) {
			break
		}
		rest = filepath.Join(filepath.Base(d), rest)
	}
	for _, w := range slices.Sorted(maps.Keys(g.vms)) {
		same := func(st fs.FileInfo) bool { return os.SameFile(st, g.infos[w]) }
		s, known := g.locations[w]
		if Within(p, w) || g.infos[w] != nil && slices.ContainsFunc(up, same) || known && placed && s.dev == at.dev && Within(at.path, s.path) {
			return w, g.vms[w], true
		}
	}
	return "", "", false
}

// FolderBelow returns a guest-writable folder that is inside p, and its VM.
func (g *Folders) FolderBelow(p string) (folder, vm string, yes bool) {
	at, placed := g.locate(p)
	for _, w := range slices.Sorted(maps.Keys(g.vms)) {
		s, known := g.locations[w]
		if Within(w, p) || known && placed && s.dev == at.dev && Within(s.path, at.path) {
			return w, g.vms[w], true
		}
	}
	return "", "", false
}

// HardLinked reports whether the file at p has a hard link that may be in a guest-writable folder:
// it has several links, and the folder's owner and file system.
func (g *Folders) HardLinked(p string) (folder, vm string, yes bool) {
	if g == nil {
		return "", "", false
	}
	st, err := os.Stat(p)
	if err != nil || !st.Mode().IsRegular() {
		return "", "", false
	}
	file, ok := st.Sys().(*syscall.Stat_t)
	if !ok || file.Nlink < 2 {
		return "", "", false
	}
	for _, w := range slices.Sorted(maps.Keys(g.infos)) {
		if dir, ok := g.infos[w].Sys().(*syscall.Stat_t); ok && dir.Dev == file.Dev && dir.Uid == file.Uid {
			return w, g.vms[w], true
		}
	}
	return "", "", false
}
