package protect

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/ui"
)

// A mount is on one name (directory entry) of one file. When that name is removed on
// this machine, by a save that renames another file over it or by rm, the kernel
// drops the mount. In the daemon's namespace only root can see that. But everybody
// can see that the path leads to another file, or that its name was changed:
// removing a name changes the ctime of the file and of the directory, which nobody
// can set.

// A Stamp identifies the file at a path, to check later whether the path still
// leads to the same file by the same name.
type Stamp struct {
	ID    string `json:"id"`               // of the file; not reused after its deletion
	CTime int64  `json:"ctime"`            // in nanoseconds
	Dir   int64  `json:"dir,omitempty"`    // ctime of the directory that has its name; 0: unknown
	Way   bool   `json:"way,omitempty"`    // a directory in the path of a protected one, which the guest may change
	IsDir bool   `json:"is_dir,omitempty"` // a protected directory, or one below it
}

// ctimeGrain is longer than the ctime granularity of any file system: two changes
// within it may get the same ctime.
const ctimeGrain = 20 * time.Millisecond

// stampTries bounds how often stampAll waits until no file has a recent change.
const stampTries = 5

// stampOf takes the stamp of the file fd, whose name is in the directory in. Both may
// be opened with O_PATH.
func stampOf(fd, in int) (Stamp, *unix.Stat_t, error) {
	var st, dir unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return Stamp{}, nil, err
	}
	if err := unix.Fstat(in, &dir); err != nil {
		return Stamp{}, nil, err
	}
	s := Stamp{ID: fmt.Sprintf("%d", st.Ino), CTime: st.Ctim.Nano(), Dir: dir.Ctim.Nano(), IsDir: st.Mode&unix.S_IFMT == unix.S_IFDIR}
	// The inode number of a deleted file is reused. With the generation in the file
	// handle, or the time of birth, it is unique.
	if h, _, err := unix.NameToHandleAt(fd, "", unix.AT_EMPTY_PATH); err == nil {
		s.ID += fmt.Sprintf(":%d:%x", h.Type(), h.Bytes())
	} else {
		var sx unix.Statx_t
		if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_BTIME, &sx); err == nil && sx.Mask&unix.STATX_BTIME != 0 {
			s.ID += fmt.Sprintf(":%d.%d", sx.Btime.Sec, sx.Btime.Nsec)
		} else if !s.IsDir {
			s.Dir = 0 // then only a file with an unchanged ctime counts as the same
		}
	}
	return s, &st, nil
}

// stampAll takes the stamps of all protected paths and files below a folder's mount
// at point. It waits until no file was changed so recently that its next change
// could get the same ctime.
func stampAll(point string, paths []string) (map[string]Stamp, error) {
	top, err := openTop(point)
	if err != nil {
		return nil, err
	}
	defer unix.Close(top)
	below := newBelowReader(top)
	defer below.close()
	for try := 0; ; try++ {
		out := map[string]Stamp{}
		recent := time.Now().Add(-ctimeGrain).UnixNano()
		fresh := false
		add := func(rel string, way bool) error {
			s, _, err := below.stampOf(rel)
			if notBelow(err) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("reading %s: %w", rel, err)
			}
			s.Way = way
			if s.Dir > recent {
				s.Dir = 0
			}
			if !way && s.CTime > recent {
				fresh = true
				if try == stampTries {
					s.CTime, s.Dir = 0, 0 // it keeps changing: it will never compare as the same
				}
			}
			out[rel] = s
			return nil
		}
		for _, p := range points(paths) {
			if err := add(p.rel, !p.ro); err != nil {
				return nil, err
			}
		}
		err := walkBelow(top, readOnly(paths), maxCovered, func(rel, of string, _ *unix.Stat_t) error {
			if rel == of {
				return nil
			}
			return add(rel, false)
		})
		if err != nil {
			return nil, err
		}
		if !fresh || try == stampTries {
			return out, nil
		}
		below.close() // the directory may be replaced while this sleeps
		time.Sleep(ctimeGrain)
	}
}

// differs reports whether now is another file, or the same file whose name may have
// been removed in between (touched). A save in place changes the ctime of the file
// but not that of its directory.
func (s Stamp) differs(now Stamp) (other, touched bool) {
	switch {
	case now.ID != s.ID:
		return true, false
	case s.Way || now.CTime == s.CTime:
		return false, false
	}
	return false, s.IsDir || s.Dir == 0 || now.Dir != s.Dir
}

// compare returns the paths below src that changed since the stamps were taken:
// replaced ones, whose mount the kernel dropped; changed ones, whose mount only root
// can check; and linked ones, which have a second hard link that a guest can write.
func compare(src string, stamps map[string]Stamp) (replaced, changed, linked []string, err error) {
	top, err := unix.Open(src, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil, nil
	}
	if err != nil {
		return nil, nil, nil, fmt.Errorf("opening %s: %w", src, err)
	}
	defer unix.Close(top)
	below := newBelowReader(top)
	defer below.close()
	for _, rel := range slices.Sorted(maps.Keys(stamps)) {
		s := stamps[rel]
		now, st, err := below.stampOf(rel)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if notBelow(err) {
			replaced = append(replaced, rel)
			continue
		}
		if err != nil {
			return nil, nil, nil, fmt.Errorf("reading %s: %w", rel, err)
		}
		switch other, touched := s.differs(now); {
		case other:
			replaced = append(replaced, rel)
		case touched:
			changed = append(changed, rel)
		}
		if !s.IsDir && st.Nlink > 1 {
			linked = append(linked, rel)
		}
	}
	slices.Sort(replaced)
	slices.Sort(changed)
	slices.Sort(linked)
	return replaced, changed, linked, nil
}

// withVerb lists paths for a sentence, with the verb in the singular or plural.
func withVerb(paths []string, one, many string) string {
	const most = 8
	verb := many
	if len(paths) == 1 {
		verb = one
	}
	return ui.Some(paths, most) + " " + verb
}
