package gitsync

import (
	"errors"
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

// trail lists every place that opening name passes: each directory, each link
// and what it leads to, and the end, whether it is there or not. Whoever can
// write one of them decides what is read. name is absolute and is not cleaned:
// "link/.." is where the link leads, as it is for the kernel.
func trail(name string) ([]string, error) {
	rest := strings.Split(name, "/")
	at := "/"
	var out []string
	for links := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			at = filepath.Dir(at)
			continue
		}
		next := filepath.Join(at, part)
		out = append(out, next)
		st, err := os.Lstat(next)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
			at = next
			continue
		case err != nil:
			return out, err
		case st.Mode()&fs.ModeSymlink == 0:
			at = next
			continue
		}
		if links++; links > 40 { // the kernel's limit
			return out, &fs.PathError{Op: "open", Path: name, Err: syscall.ELOOP}
		}
		to, err := os.Readlink(next)
		if err != nil {
			return out, err
		}
		if filepath.IsAbs(to) {
			at = "/"
		}
		rest = append(strings.Split(to, "/"), rest...)
	}
	return out, nil
}

// guests are the folders of this machine that guests can write.
type guests struct {
	vms    map[string]string // by folder
	spots  map[string]spot
	infos  map[string]fs.FileInfo
	mounts map[int]mountinfo.Mount
}

// spot is a place in a file system, the same whichever mount leads there.
type spot struct{ dev, path string }

func newGuests(writable map[string]string) (*guests, error) {
	g := &guests{vms: writable, spots: map[string]spot{}, infos: map[string]fs.FileInfo{}, mounts: map[int]mountinfo.Mount{}}
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

// spotOf finds where in its file system a place is that is there.
func (g *guests) spotOf(p string) (spot, bool) {
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

// writes reports which folder that a guest can write holds p, and whose it is.
// It knows the folder by its name, by its inode, and through other mounts.
func (g *guests) writes(p string) (folder, vm string, yes bool) {
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
		if within(p, w) || g.infos[w] != nil && slices.ContainsFunc(up, same) || known && placed && s.dev == at.dev && within(at.path, s.path) {
			return w, g.vms[w], true
		}
	}
	return "", "", false
}

// holds reports which folder that a guest can write lies in p, and whose it is.
func (g *guests) holds(p string) (folder, vm string, yes bool) {
	at, placed := g.spotOf(p)
	for _, w := range slices.Sorted(maps.Keys(g.vms)) {
		s, known := g.spots[w]
		if within(w, p) || known && placed && s.dev == at.dev && within(s.path, at.path) {
			return w, g.vms[w], true
		}
	}
	return "", "", false
}

// shares reports whether the file at p has another name that may lie in a
// folder a guest can write: several names, and an owner and a file system in
// common with the folder.
func (g *guests) shares(p string) (folder, vm string, yes bool) {
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
