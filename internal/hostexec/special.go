package hostexec

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"sort"
	"time"

	"golang.org/x/sys/unix"
)

// A Special is a file that can give privileges to a user who opens or runs it: a device node, or a
// file with the setuid or setgid bit.
type Special struct {
	Path  string // relative to the folder; any bytes
	What  string // "block device 8:0", "character device 1:3", "setuid", "setgid", "setuid and setgid"
	Owner uint32 // uid
}

// Specials is the result of one search of a folder for such files.
type Specials struct {
	Files []Special // sorted by Path
	Cut   string    // why the search is incomplete, "" if it is complete
}

// Limits of a search. A guest can create so many files that a search does not end within them; then
// Cut is set.
const (
	maxSpecials    = 200
	specialEntries = 300_000
	specialTime    = 4 * time.Second
	dirEntries     = 1024 // read at once
)

// FindSpecial searches a folder for device nodes, and for setuid and setgid files whose inode
// changed after since: older ones existed before the guest could write. It follows no link, enters
// no other mount, and opens only directories, those near the top first.
func FindSpecial(ctx context.Context, dir string, since time.Time) (Specials, error) {
	root, err := unix.Openat2(unix.AT_FDCWD, dir, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return Specials{}, fmt.Errorf("searching %s for device nodes and setuid files: %w", dir, err)
	}
	defer unix.Close(root)
	s := specialSearch{root: root, since: since, end: time.Now().Add(specialTime)}
	queue := []string{"."}
	for len(queue) > 0 && !s.full {
		if err := ctx.Err(); err != nil {
			return Specials{}, err
		}
		below := s.directory(ctx, queue[0])
		queue = append(queue[1:], below...)
	}
	sort.Slice(s.found.Files, func(i, j int) bool { return s.found.Files[i].Path < s.found.Files[j].Path })
	return s.found, nil
}

type specialSearch struct {
	root    int
	since   time.Time
	end     time.Time
	entries int
	full    bool // a limit was reached
	found   Specials
}

func (s *specialSearch) cut(format string, args ...any) {
	if s.found.Cut == "" {
		s.found.Cut = fmt.Sprintf(format, args...)
	}
}

// directory searches one directory and returns the directories in it.
func (s *specialSearch) directory(ctx context.Context, rel string) (below []string) {
	fd, err := unix.Openat2(s.root, rel, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: resolve})
	switch {
	case errors.Is(err, unix.EXDEV), errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return nil // another mount, or replaced since its parent was read
	case err != nil:
		s.cut("%s cannot be read: %v", rel, err)
		return nil
	}
	d := os.NewFile(uintptr(fd), rel)
	defer d.Close()
	for !s.full {
		names, err := d.ReadDir(dirEntries)
		for _, e := range names {
			if s.entries++; s.entries > specialEntries {
				s.full = true
				s.cut("it has more than %d files", specialEntries)
				return nil
			}
			if e.IsDir() {
				below = append(below, path.Join(rel, e.Name()))
				continue
			}
			if e.Type()&fs.ModeSymlink == 0 {
				s.checkFile(fd, e.Name(), path.Join(rel, e.Name()))
			}
		}
		if time.Now().After(s.end) || ctx.Err() != nil {
			s.full = true
			s.cut("the search took longer than %v", specialTime)
		}
		if errors.Is(err, io.EOF) {
			return below
		}
		if err != nil {
			s.cut("%s cannot be read: %v", rel, err)
			return below
		}
	}
	return below
}

// checkFile adds a file to the result if it is a device node, or is setuid or setgid.
func (s *specialSearch) checkFile(dir int, name, rel string) {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			s.cut("the state of %s cannot be read: %v", rel, err)
		}
		return
	}
	what := ""
	major, minor := unix.Major(st.Rdev), unix.Minor(st.Rdev)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFBLK:
		what = fmt.Sprintf("block device %d:%d", major, minor)
	case unix.S_IFCHR:
		if st.Rdev == 0 {
			return // overlayfs marks deleted files with device 0:0, which is no real device
		}
		what = fmt.Sprintf("character device %d:%d", major, minor)
	case unix.S_IFREG:
		if !time.Unix(st.Ctim.Unix()).After(s.since) {
			return
		}
		// setgid has no effect unless the group may execute the file.
		setgid := st.Mode&unix.S_ISGID != 0 && st.Mode&unix.S_IXGRP != 0
		switch {
		case st.Mode&unix.S_ISUID != 0 && setgid:
			what = "setuid and setgid"
		case st.Mode&unix.S_ISUID != 0:
			what = "setuid"
		case setgid:
			what = "setgid"
		}
	}
	if what == "" {
		return
	}
	if len(s.found.Files) >= maxSpecials {
		s.full = true
		s.cut("it has more than %d such files", maxSpecials)
		return
	}
	s.found.Files = append(s.found.Files, Special{Path: rel, What: what, Owner: st.Uid})
}
