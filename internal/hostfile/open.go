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

// ErrNotRegular reports that a path is not a regular file but, for example, a pipe, device or
// socket. Such a file is never opened.
var ErrNotRegular = errors.New("not a regular file")

// ErrLink reports that a path contains a symbolic link.
var ErrLink = errors.New("the path contains a symbolic link, which is not followed")

// Open returns a handle (O_PATH) of the file at path, an absolute path without links. If the path
// contains a link, also as its last name, the error is ErrLink. The handle always refers to the same
// file, even if the path is replaced; it cannot be read: see Reopen, Names and Entries.
func Open(path string) (*os.File, error) {
	return handle(unix.AT_FDCWD, path, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS})
}

// OpenFollowed is Open for a path that may contain links.
func OpenFollowed(path string) (*os.File, error) {
	return handle(unix.AT_FDCWD, path, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC})
}

// At returns a handle of the entry name of the directory dir, which is a handle too. If the entry is
// a link, the handle refers to the link itself.
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
			// EAGAIN: a name was renamed while the kernel resolved the path.
			continue
		case errors.Is(err, unix.ELOOP):
			err = ErrLink
		}
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
}

// Reopen opens the file of handle h for reading, if it is a regular file. It opens that file even if
// another one is at its path now.
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

// Names returns at most limit names in the directory of handle h, and whether there are more.
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

// Entries returns at most limit entries of the directory of handle h.
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

// Readlink returns the target of the link of handle h.
func Readlink(h *os.File) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(h.Fd()), "", buf)
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: h.Name(), Err: err}
	}
	return string(buf[:n]), nil
}

// Read returns the content of the regular file at path, a path without links. More than limit bytes
// are an error.
func Read(path string, limit int64) ([]byte, error) {
	h, err := Open(path)
	if err != nil {
		return nil, err
	}
	return read(h, limit)
}

// ReadFollowed is Read for a path that may contain links, for files whose location does not tell who
// owns them. It does not block on a pipe.
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
