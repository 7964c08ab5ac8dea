// Package ownership finds the files of a folder that belong to users or groups which the
// mount for a guest does not map: nobody in the guest can change them.
//
// The folder may be writable by a guest during the search: it follows no link, enters no
// other mount, opens only directories, and stops at limits.
package ownership

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Ids are the owners on disk that a mount maps.
type Ids struct {
	UIDs, GIDs []int
}

// A Kind is a user or a group.
type Kind string

// The kinds.
const (
	User  Kind = "user"
	Group Kind = "group"
)

// Unmapped are the files of one user or group that a mount does not map.
type Unmapped struct {
	Kind  Kind
	ID    int
	Name  string // "" if there is none
	Count int
	Paths []string // the first few, relative to the folder; any bytes
}

// List is the result of a search.
type List struct {
	Unmapped []Unmapped // users first, the most frequent first
	Cut      string     // why the search is incomplete, "" if it is complete
}

// Limits of a search.
const (
	maxEntries = 300_000
	maxTime    = 3 * time.Second
	maxKinds   = 64 // different users and groups
	maxPaths   = 4  // of each
	readAtOnce = 1024
)

type owner struct {
	kind Kind
	id   int
}

type search struct {
	root    int
	mapped  Ids
	end     time.Time
	entries int
	full    bool
	found   map[owner]*Unmapped
	cutBy   string
}

// Find searches a folder. It reads directories near the top first.
func Find(ctx context.Context, dir string, mapped Ids) (List, error) {
	root, err := unix.Openat2(unix.AT_FDCWD, dir, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return List{}, fmt.Errorf("searching %s for files of other users and groups: %w", dir, err)
	}
	defer unix.Close(root)
	s := search{root: root, mapped: mapped, end: time.Now().Add(maxTime), found: map[owner]*Unmapped{}}
	for queue := []string{"."}; len(queue) > 0 && !s.full; {
		if err := ctx.Err(); err != nil {
			return List{}, err
		}
		queue = append(queue[1:], s.directory(ctx, queue[0])...)
	}
	l := List{Cut: s.cutBy}
	for _, u := range s.found {
		u.Name = name(u.Kind, u.ID)
		l.Unmapped = append(l.Unmapped, *u)
	}
	slices.SortFunc(l.Unmapped, func(a, b Unmapped) int {
		return cmp.Or(-cmp.Compare(a.Kind, b.Kind), b.Count-a.Count, a.ID-b.ID)
	})
	return l, nil
}

// name returns the name of a user or group on this machine, or "".
func name(kind Kind, id int) string {
	if kind == User {
		if u, err := user.LookupId(strconv.Itoa(id)); err == nil {
			return u.Username
		}
	} else if g, err := user.LookupGroupId(strconv.Itoa(id)); err == nil {
		return g.Name
	}
	return ""
}

func (s *search) cut(format string, args ...any) {
	if s.cutBy == "" {
		s.cutBy = fmt.Sprintf(format, args...)
	}
}

// directory searches one directory and returns the directories in it.
func (s *search) directory(ctx context.Context, rel string) (below []string) {
	fd, err := unix.Openat2(s.root, rel, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	})
	switch {
	case errors.Is(err, unix.EXDEV), errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return nil // another mount, or replaced since its parent was read
	case err != nil:
		s.cut("%s cannot be read: %v", rel, err)
		return nil
	}
	d := os.NewFile(uintptr(fd), rel)
	defer d.Close()
	var dir unix.Stat_t
	if err := unix.Fstat(fd, &dir); err != nil {
		s.cut("%s cannot be read: %v", rel, err)
		return nil
	}
	for !s.full {
		entries, err := d.ReadDir(readAtOnce)
		for _, e := range entries {
			if s.entries++; s.entries > maxEntries {
				s.full = true
				s.cut("it has more than %d files", maxEntries)
				return nil
			}
			p := path.Join(rel, e.Name())
			s.check(fd, dir.Dev, e.Name(), p)
			if e.IsDir() {
				below = append(below, p)
			}
		}
		if time.Now().After(s.end) || ctx.Err() != nil {
			s.full = true
			s.cut("the search took longer than %v", maxTime)
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				s.cut("%s cannot be read: %v", rel, err)
			}
			return below
		}
	}
	return below
}

// check adds a file to what is found if its user or group is not mapped.
func (s *search) check(dir int, dev uint64, name, rel string) {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT); err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			s.cut("the state of %s cannot be read: %v", rel, err)
		}
		return
	}
	if st.Dev != dev {
		return // another mount: the guest sees the directory it covers
	}
	if id := int(st.Uid); !slices.Contains(s.mapped.UIDs, id) {
		s.add(owner{User, id}, rel)
	}
	if id := int(st.Gid); !slices.Contains(s.mapped.GIDs, id) {
		s.add(owner{Group, id}, rel)
	}
}

func (s *search) add(o owner, rel string) {
	u := s.found[o]
	if u == nil {
		if len(s.found) == maxKinds {
			s.cut("its files belong to more than %d users and groups", maxKinds)
			return
		}
		u = &Unmapped{Kind: o.kind, ID: o.id}
		s.found[o] = u
	}
	if u.Count++; len(u.Paths) < maxPaths {
		u.Paths = append(u.Paths, rel)
	}
}
