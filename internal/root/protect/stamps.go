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

// A mount lies on one name of one file. When that name is taken away on this
// machine, by a save that renames another file over it or by rm, the kernel
// drops the mount. Only root can see that in the daemon's namespace; what
// anybody can see is that the file is another, or that its name was touched: a
// name cannot be taken away without a change of the file's and the directory's
// ctime, which nobody can set.

// A Stamp tells whether a path still leads to the file it led to, by the same
// name.
type Stamp struct {
	ID    string `json:"id"`               // of the file, no other one's after it is gone
	CTime int64  `json:"ctime"`            // in nanoseconds
	Dir   int64  `json:"dir,omitempty"`    // ctime of the directory its name is in; 0: not known
	Way   bool   `json:"way,omitempty"`    // a directory on the way, which the guest may change
	IsDir bool   `json:"is_dir,omitempty"` // a protected directory, or one in it
}

// ctimeGrain is more than any file system's clock for ctime is behind: two
// changes within it may have the same.
const ctimeGrain = 20 * time.Millisecond

// stampTries bounds how long stampAll waits for files to come to rest.
const stampTries = 5

// stampOf takes the stamp of what fd is, whose name is in dir; both may be open
// for no more than their place (O_PATH).
func stampOf(fd, in int) (Stamp, *unix.Stat_t, error) {
	var st, dir unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return Stamp{}, nil, err
	}
	if err := unix.Fstat(in, &dir); err != nil {
		return Stamp{}, nil, err
	}
	s := Stamp{ID: fmt.Sprintf("%d", st.Ino), CTime: st.Ctim.Nano(), Dir: dir.Ctim.Nano(), IsDir: st.Mode&unix.S_IFMT == unix.S_IFDIR}
	// The number of a file that is gone is given to the next one; with the
	// generation in its handle, or the time it was made, it is unique.
	if h, _, err := unix.NameToHandleAt(fd, "", unix.AT_EMPTY_PATH); err == nil {
		s.ID += fmt.Sprintf(":%d:%x", h.Type(), h.Bytes())
	} else {
		var sx unix.Statx_t
		if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_BTIME, &sx); err == nil && sx.Mask&unix.STATX_BTIME != 0 {
			s.ID += fmt.Sprintf(":%d.%d", sx.Btime.Sec, sx.Btime.Nsec)
		} else if !s.IsDir {
			s.Dir = 0 // then only an unchanged file is the same
		}
	}
	return s, &st, nil
}

// stampAll takes the stamps of all that is to be protected below a folder's mount
// at point, once none of it is so new that its next change could have the same
// time.
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
				return fmt.Errorf("looking at %s: %w", rel, err)
			}
			s.Way = way
			if s.Dir > recent {
				s.Dir = 0
			}
			if !way && s.CTime > recent {
				fresh = true
				if try == stampTries {
					s.CTime, s.Dir = 0, 0 // it does not come to rest: never the same again
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
		below.close() // its directory may be another by then
		time.Sleep(ctimeGrain)
	}
}

// differs says whether now is another file, or the same whose name may have been
// gone for a while. A save in place changes the file's ctime and not that of the
// directory its name is in.
func (s Stamp) differs(now Stamp) (other, touched bool) {
	switch {
	case now.ID != s.ID:
		return true, false
	case s.Way || now.CTime == s.CTime:
		return false, false
	}
	return false, s.IsDir || s.Dir == 0 || now.Dir != s.Dir
}

// compare says what of it is not as it was below src: replaced, so that the
// mount is gone; changed, so that nobody but root knows; twice, by a second name
// a guest can write it.
func compare(src string, was map[string]Stamp) (replaced, changed, twice []string, err error) {
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
	for _, rel := range slices.Sorted(maps.Keys(was)) {
		s := was[rel]
		now, st, err := below.stampOf(rel)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if notBelow(err) {
			replaced = append(replaced, rel)
			continue
		}
		if err != nil {
			return nil, nil, nil, fmt.Errorf("looking at %s: %w", rel, err)
		}
		switch other, touched := s.differs(now); {
		case other:
			replaced = append(replaced, rel)
		case touched:
			changed = append(changed, rel)
		}
		if !s.IsDir && st.Nlink > 1 {
			twice = append(twice, rel)
		}
	}
	slices.Sort(replaced)
	slices.Sort(changed)
	slices.Sort(twice)
	return replaced, changed, twice, nil
}

// some names paths for a sentence, with the verb that fits.
func some(paths []string, one, many string) string {
	const most = 8
	verb := many
	if len(paths) == 1 {
		verb = one
	}
	return ui.Some(paths, most) + " " + verb
}
