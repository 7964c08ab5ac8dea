package hostfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// ErrNotRegular is the error for what is no regular file: a pipe, a device, a
// socket. It is never opened.
var ErrNotRegular = errors.New("not a file")

// ErrLink is the error for a path on which a link lies, or was put meanwhile.
var ErrLink = errors.New("a link lies on the way, and is not followed")

// Open returns a handle (O_PATH) of what lies at path, an absolute path without
// links. One that has a link on it, the last name too, is ErrLink. The handle
// names one object for good; it cannot be read: see Reopen and List.
func Open(path string) (*os.File, error) {
	return handle(unix.AT_FDCWD, path, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS})
}

// OpenFollowed is Open of a path that may have links on it.
func OpenFollowed(path string) (*os.File, error) {
	return handle(unix.AT_FDCWD, path, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC})
}

// At returns a handle of the entry name of the directory dir, a handle itself.
// An entry that is a link is the link itself.
func At(dir *os.File, name string) (*os.File, error) {
	return handle(int(dir.Fd()), name, dir.Name()+"/"+name, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
}

func handle(dir int, name, path string, how *unix.OpenHow) (*os.File, error) {
	for {
		fd, err := unix.Openat2(dir, name, how)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), path), nil
		case errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN):
			// EAGAIN: something was renamed while the kernel walked.
			continue
		case errors.Is(err, unix.ELOOP):
			err = ErrLink
		}
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
}

// Reopen opens what the handle h names for reading, if it is a regular file:
// that very file, whatever lies at its path by now.
func Reopen(h *os.File) (*os.File, fs.FileInfo, error) {
	st, err := h.Stat()
	if err != nil {
		return nil, nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, nil, &fs.PathError{Op: "open", Path: h.Name(), Err: ErrNotRegular}
	}
	fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(int(h.Fd())), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, &fs.PathError{Op: "open", Path: h.Name(), Err: err}
	}
	return os.NewFile(uintptr(fd), h.Name()), st, nil
}

// Names lists the directory the handle h names, at most limit names of it and
// whether there are more.
func Names(h *os.File, limit int) (names []string, more bool, err error) {
	d, err := directory(h)
	if err != nil {
		return nil, false, err
	}
	defer d.Close()
	names, err = d.Readdirnames(limit + 1)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if len(names) > limit {
		names, more = names[:limit], true
	}
	return names, more, err
}

// Entries lists the directory the handle h names, at most limit entries of it.
func Entries(h *os.File, limit int) ([]fs.DirEntry, error) {
	d, err := directory(h)
	if err != nil || limit <= 0 {
		return nil, err
	}
	defer d.Close()
	out, err := d.ReadDir(limit)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return out, err
}

func directory(h *os.File) (*os.File, error) {
	fd, err := unix.Openat(int(h.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: h.Name(), Err: err}
	}
	return os.NewFile(uintptr(fd), h.Name()), nil
}

// Readlink returns where the link leads that the handle h names.
func Readlink(h *os.File) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(h.Fd()), "", buf)
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: h.Name(), Err: err}
	}
	return string(buf[:n]), nil
}

// Read returns what the regular file at path holds, a path without links; more
// than limit bytes are an error.
func Read(path string, limit int64) ([]byte, error) {
	h, err := Open(path)
	if err != nil {
		return nil, err
	}
	return read(h, limit)
}

// ReadFollowed is Read of a path that may have links on it: for files whose
// place says nothing about whose they are. A pipe holds nobody up.
func ReadFollowed(path string, limit int64) ([]byte, error) {
	h, err := OpenFollowed(path)
	if err != nil {
		return nil, err
	}
	return read(h, limit)
}

func read(h *os.File, limit int64) ([]byte, error) {
	defer h.Close()
	f, _, err := Reopen(h)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("larger than %d KiB", limit>>10)
	}
	return b, err
}
