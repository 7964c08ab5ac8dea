package settingsync

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const noFollow = syscall.O_NOFOLLOW | syscall.O_NONBLOCK

// maxLinks is the kernel's own limit.
const maxLinks = 40

// resolve follows the links of a listed path, as dotfile managers make them,
// except one that lies in a folder a guest can write: it could have been
// planted to have a file of the host sent.
func resolve(name string, untrusted []string) (string, error) {
	rest := strings.Split(strings.Trim(filepath.Clean(name), "/"), "/")
	at := "/"
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
		st, err := os.Lstat(next)
		if err != nil {
			return "", err
		}
		if st.Mode()&fs.ModeSymlink == 0 {
			at = next
			continue
		}
		for _, u := range untrusted {
			if at == u || strings.HasPrefix(at, strings.TrimSuffix(u, "/")+"/") {
				return "", fmt.Errorf("%s is a link in a folder that a guest can write, and is not followed", next)
			}
		}
		if links++; links > maxLinks {
			return "", syscall.ELOOP
		}
		target, err := os.Readlink(next)
		if err != nil {
			return "", err
		}
		if filepath.IsAbs(target) {
			at = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return at, nil
}

// openFile opens a path from which all links are resolved; one that has become
// a link meanwhile is not followed, and a pipe does not block.
func openFile(real string) (*os.File, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, real, &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK, Resolve: unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: real, Err: err}
	}
	return os.NewFile(uintptr(fd), real), nil
}

func readLimited(real string, limit int64) ([]byte, error) {
	f, err := openFile(real)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, errors.New("not a file")
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("larger than %d KiB", limit>>10)
	}
	return b, err
}

// reason is an error without the path it is about, which is said before it.
func reason(err error) string {
	if pe := new(fs.PathError); errors.As(err, &pe) {
		return pe.Err.Error()
	}
	if err == nil {
		return "too large"
	}
	return err.Error()
}

func sameFile(a, b string) bool {
	sa, err1 := os.Stat(a)
	sb, err2 := os.Stat(b)
	return err1 == nil && err2 == nil && os.SameFile(sa, sb)
}

func keysOf[V any](m map[string]V) iter.Seq[string] { return maps.Keys(m) }
