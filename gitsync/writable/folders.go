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

// Folders are the folders of this machine that guests can write.
type Folders struct {
	vms    map[string]string // by folder
	spots  map[string]spot
	infos  map[string]fs.FileInfo
	mounts map[int]mountinfo.Mount
}

// spot is a place in a file system, the same whichever mount leads there.
type spot struct{ dev, path string }

func New(writable map[string]string) (*Folders, error) {
	g := &Folders{vms: writable, spots: map[string]spot{}, infos: map[string]fs.FileInfo{}, mounts: map[int]mountinfo.Mount{}}
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
		if s, ok := g.spotOf(w); ok {
			g.spots[w] = s
		}
		if st, err := os.Stat(w); err == nil {
			g.infos[w] = st
		}
	}
	return g, nil
}

// Seen are the folders that are there.
func (g *Folders) Seen() []string { return slices.Sorted(maps.Keys(g.infos)) }

// VM is whose guest can write the folder.
func (g *Folders) VM(folder string) string { return g.vms[folder] }

// System names the file system that a directory lies in, "" if it cannot be told.
func (g *Folders) System(dir string) string {
	at, _ := g.spotOf(dir)
	return at.dev
}

// spotOf finds where in its file system a place is that is there.
func (g *Folders) spotOf(p string) (spot, bool) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, p, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID, &st); err != nil || st.Mask&unix.STATX_MNT_ID == 0 {
		return spot{}, false
	}
	m, ok := g.mounts[int(st.Mnt_id)]
	if !ok {
		return spot{}, false
	}
	rel, err := filepath.Rel(m.Point, p)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return spot{}, false
	}
	return spot{m.Dev, filepath.Join(m.Root, rel)}, true
}

// Holding reports which folder that a guest can write holds p, and whose it is.
// It knows the folder by its name, by its inode, and through other mounts.
func (g *Folders) Holding(p string) (folder, vm string, yes bool) {
	if g == nil || len(g.vms) == 0 {
		return "", "", false
	}
	var up []fs.FileInfo
	var at spot
	placed := false
	for d, rest := p, ""; ; d = filepath.Dir(d) {
		if st, err := os.Lstat(d); err == nil {
			up = append(up, st)
			if !placed {
				if at, placed = g.spotOf(d); placed {
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
		s, known := g.spots[w]
		if Within(p, w) || g.infos[w] != nil && slices.ContainsFunc(up, same) || known && placed && s.dev == at.dev && Within(at.path, s.path) {
			return w, g.vms[w], true
		}
	}
	return "", "", false
}

// Inside reports which folder that a guest can write lies in p, and whose it is.
func (g *Folders) Inside(p string) (folder, vm string, yes bool) {
	at, placed := g.spotOf(p)
	for _, w := range slices.Sorted(maps.Keys(g.vms)) {
		s, known := g.spots[w]
		if Within(w, p) || known && placed && s.dev == at.dev && Within(s.path, at.path) {
			return w, g.vms[w], true
		}
	}
	return "", "", false
}

// Sharing reports whether the file at p has another name that may lie in a
// folder a guest can write: several names, and an owner and a file system in
// common with the folder.
func (g *Folders) Sharing(p string) (folder, vm string, yes bool) {
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
