// Package fileattrs gives a file that replaces another one what the other has
// beside content, owner and mode: extended attributes, and with them access
// lists and security labels.
package fileattrs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Keep copies the extended attributes of the file at path to the new file, and
// takes away those the directory gave it. Owner and mode are to be set before,
// since setting them changes attributes. Labels that only the system may set
// are copied if it allows it.
func Keep(to *os.File, path string) error {
	from, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer from.Close()
	want, err := names(from)
	if err != nil {
		return fmt.Errorf("reading the attributes of %s: %w", path, err)
	}
	have, err := names(to)
	if err != nil {
		return fmt.Errorf("reading the attributes of %s: %w", to.Name(), err)
	}
	for _, n := range have {
		if _, ok := value(from, n); !ok && !systems(n) {
			if err := unix.Fremovexattr(int(to.Fd()), n); err != nil && !errors.Is(err, unix.ENODATA) {
				return fmt.Errorf("taking the attribute %s away from %s: %w", n, to.Name(), err)
			}
		}
	}
	for _, n := range want {
		v, ok := value(from, n)
		if !ok {
			continue // it went away, or is not for us to read
		}
		if now, ok := value(to, n); ok && bytes.Equal(now, v) {
			continue
		}
		if err := unix.Fsetxattr(int(to.Fd()), n, v, 0); err != nil && !systems(n) {
			return fmt.Errorf("keeping the attribute %s of %s: %w", n, path, err)
		}
	}
	return nil
}

// systems are the attributes the kernel gives by its own rules.
func systems(name string) bool {
	return strings.HasPrefix(name, "security.") || strings.HasPrefix(name, "trusted.")
}

func names(f *os.File) ([]string, error) {
	b := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := unix.Flistxattr(int(f.Fd()), b)
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return strings.FieldsFunc(string(b[:n]), func(r rune) bool { return r == 0 }), nil
}

func value(f *os.File, name string) ([]byte, bool) {
	b := make([]byte, 64<<10) // XATTR_SIZE_MAX
	n, err := unix.Fgetxattr(int(f.Fd()), name, b)
	if err != nil {
		return nil, false
	}
	return b[:n], true
}
