package protect

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// The guest can replace everything below a folder's mount at any time, also by a
// link to any path of this machine. So the functions in this file never open a file
// by its absolute path: they start at an open directory of the folder and follow no
// link.

// openTop opens the directory at path, which the guest cannot replace.
func openTop(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("opening %s: %w", path, err)
	}
	return fd, nil
}

// openBelow opens the file, directory or link at rel below an open directory, with
// O_PATH. It tries again when a mount in the path disappears during the lookup
// (EXDEV), as when the file under the mount is replaced.
func openBelow(top int, rel string) (fd int, err error) {
	for range coverTries {
		fd, err = unix.Openat2(top, rel, &unix.OpenHow{
			Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
		})
		if !errors.Is(err, unix.EXDEV) && !errors.Is(err, unix.EAGAIN) {
			break
		}
	}
	return fd, err
}

// notBelow reports whether err says that no such path exists below the top
// directory: it is missing, or goes through a link or a file.
func notBelow(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}

// A belowReader takes the stamps of paths below an open directory. It keeps the
// parent directory of the last path open.
type belowReader struct {
	top, dir int
	name     string // of dir
}

func newBelowReader(top int) *belowReader { return &belowReader{top: top, dir: -1} }

func (b *belowReader) close() {
	if b.dir >= 0 {
		unix.Close(b.dir)
		b.dir = -1
	}
}

// stampOf takes the stamp of a path; notBelow classifies its errors.
func (b *belowReader) stampOf(rel string) (Stamp, *unix.Stat_t, error) {
	if name := filepath.Dir(rel); b.dir < 0 || b.name != name {
		b.close()
		fd, err := openBelow(b.top, name)
		if err != nil {
			return Stamp{}, nil, err
		}
		b.dir, b.name = fd, name
	}
	fd, err := openBelow(b.dir, filepath.Base(rel))
	if err != nil {
		return Stamp{}, nil, err
	}
	defer unix.Close(fd)
	return stampOf(fd, b.dir)
}

// walkBelow calls f with each of the paths that exists below top, and with
// everything below those that are directories. of is the path among paths to which
// rel belongs. It does not enter other mounts: below a folder's mount these are the
// mounts that protect other paths of it. More than most entries are an error.
func walkBelow(top int, paths []string, most int, f func(rel, of string, st *unix.Stat_t) error) error {
	w := walk{most: most, f: f}
	for _, p := range paths {
		if err := w.path(top, p); err != nil {
			return err
		}
	}
	return nil
}

type walk struct {
	n, most int
	f       func(rel, of string, st *unix.Stat_t) error
}

func (w *walk) visit(rel, of string, st *unix.Stat_t) error {
	if w.n++; w.n > w.most {
		return fmt.Errorf("the protected directories contain more than %d files; counting stopped in %s", w.most, of)
	}
	return w.f(rel, of, st)
}

func (w *walk) path(top int, p string) error {
	at, err := openBelow(top, p)
	if notBelow(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("opening %s: %w", p, err)
	}
	defer unix.Close(at)
	var st unix.Stat_t
	if err := unix.Fstat(at, &st); err != nil {
		return err
	}
	if err := w.visit(p, p, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return err
	}
	for queue := []string{"."}; len(queue) > 0; {
		below, err := w.directory(at, queue[0], p)
		if err != nil {
			return err
		}
		queue = append(queue[1:], below...)
	}
	return nil
}

// directory visits the entries of one directory and returns its subdirectories.
func (w *walk) directory(at int, rel, of string) (below []string, err error) {
	fd, err := unix.Openat2(at, rel, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	})
	if notBelow(err) || errors.Is(err, unix.EXDEV) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", path.Join(of, rel), err)
	}
	d := os.NewFile(uintptr(fd), path.Join(of, rel))
	defer d.Close()
	for {
		names, err := d.Readdirnames(1024)
		for _, name := range names {
			var st unix.Stat_t
			if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT); err != nil {
				if notBelow(err) {
					continue
				}
				return nil, err
			}
			if err := w.visit(path.Join(of, rel, name), of, &st); err != nil {
				return nil, err
			}
			if st.Mode&unix.S_IFMT == unix.S_IFDIR {
				below = append(below, path.Join(rel, name))
			}
		}
		if errors.Is(err, io.EOF) {
			return below, nil
		}
		if err != nil {
			return nil, err
		}
	}
}
