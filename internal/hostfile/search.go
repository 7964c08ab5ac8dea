package hostfile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"time"

	"golang.org/x/sys/unix"
)

// beneath restricts every open to a folder and its mount, without following links.
const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

// readAtOnce is how many entries of a directory are read at once.
const readAtOnce = 1024

// Search is one search of a folder that a guest can write meanwhile: it follows no link, enters no
// other mount, opens only directories, those near the top first, and ends at its limits.
type Search struct {
	// The limits: how many files are listed, and for how long. A guest can create so many files that
	// a search does not end within them; then Cut is set.
	Entries int
	Time    time.Duration
	// Visit is called for every file and directory below the folder.
	Visit func(Visited)
	// Cut is why the search is incomplete; "" if it is complete.
	Cut string

	root, listed int
	end          time.Time
	ended        bool
}

// Visited is a file that a search found.
type Visited struct {
	fs.DirEntry
	Rel string // its path relative to the folder; any bytes

	search *Search
	dir    int // its directory, open
}

// Run searches the directory dir. Only a directory that cannot be opened and an ended ctx are errors;
// what cannot be read in it is left out and noted in Cut.
func (s *Search) Run(ctx context.Context, dir string) error {
	root, err := unix.Openat2(unix.AT_FDCWD, dir, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return err
	}
	defer unix.Close(root)
	s.root, s.end = root, time.Now().Add(s.Time)
	for queue := []string{"."}; len(queue) > 0 && !s.ended; {
		if err := ctx.Err(); err != nil {
			return err
		}
		queue = append(queue[1:], s.directory(ctx, queue[0])...)
	}
	return nil
}

// Note notes why the search is incomplete. The first reason counts.
func (s *Search) Note(format string, args ...any) {
	if s.Cut == "" {
		s.Cut = fmt.Sprintf(format, args...)
	}
}

// End is Note, and ends the search.
func (s *Search) End(format string, args ...any) {
	s.Note(format, args...)
	s.ended = true
}

// directory searches one directory and returns the directories in it.
func (s *Search) directory(ctx context.Context, rel string) (below []string) {
	fd, err := unix.Openat2(s.root, rel, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: beneath})
	switch {
	case errors.Is(err, unix.EXDEV), errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return nil // another mount, or replaced since its parent was read
	case err != nil:
		s.Note("%s cannot be read: %v", rel, err)
		return nil
	}
	d := os.NewFile(uintptr(fd), rel)
	defer d.Close()
	for !s.ended {
		entries, err := d.ReadDir(readAtOnce)
		for _, e := range entries {
			if s.listed++; s.listed > s.Entries {
				s.End("it has more than %d files", s.Entries)
			}
			if s.ended {
				return nil
			}
			v := Visited{DirEntry: e, Rel: path.Join(rel, e.Name()), search: s, dir: fd}
			if e.IsDir() {
				below = append(below, v.Rel)
			}
			s.Visit(v)
		}
		if time.Now().After(s.end) || ctx.Err() != nil {
			s.End("the search took longer than %v", s.Time)
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				s.Note("%s cannot be read: %v", rel, err)
			}
			return below
		}
	}
	return below
}

// Stat returns the state of the file itself, also of a link. ok is false if it is gone or cannot be
// read.
func (v Visited) Stat() (st unix.Stat_t, ok bool) {
	err := unix.Fstatat(v.dir, v.Name(), &st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		v.search.Note("the state of %s cannot be read: %v", v.Rel, err)
	}
	return st, err == nil
}

// Mounted reports whether something is mounted on the file. It compares mounts, not devices: on
// overlayfs, a file has another device than its directory.
func (v Visited) Mounted() bool {
	var file, dir unix.Statx_t
	const flags = unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT
	if unix.Statx(v.dir, v.Name(), flags, unix.STATX_MNT_ID, &file) != nil || unix.Statx(v.dir, "", flags|unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &dir) != nil {
		return false
	}
	return file.Mask&dir.Mask&unix.STATX_MNT_ID != 0 && file.Mnt_id != dir.Mnt_id
}
