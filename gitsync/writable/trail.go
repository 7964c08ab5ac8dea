package writable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Within reports whether p is dir or lies below it.
func Within(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

// Trail lists every path that opening name passes: each directory, each symbolic link and its
// target, and the final path, whether it exists or not. Whoever can write one of them decides what
// is read. name is absolute and not cleaned: "link/.." is the parent of the link's target, as for
// the kernel.
func Trail(name string) ([]string, error) {
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
