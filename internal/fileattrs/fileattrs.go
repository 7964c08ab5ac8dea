// Package fileattrs copies extended attributes, and with them access control lists
// and security labels, to a file that is about to replace another one.
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
// removes those that the new file has from its directory. Set owner and mode
// before, since setting them changes attributes. Attributes that only the kernel
// or root may set (security.*, trusted.*) are copied where that is permitted.
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
		if _, ok := value(from, n); !ok && !isPrivileged(n) {
			if err := unix.Fremovexattr(int(to.Fd()), n); err != nil && !errors.Is(err, unix.ENODATA) {
				return fmt.Errorf("removing the attribute %s of %s: %w", n, to.Name(), err)
			}
		}
	}
	for _, n := range want {
		v, ok := value(from, n)
		if !ok {
			continue // it was removed since, or this process may not read it
		}
		if now, ok := value(to, n); ok && bytes.Equal(now, v) {
			continue
		}
		if err := unix.Fsetxattr(int(to.Fd()), n, v, 0); err != nil && !isPrivileged(n) {
			return fmt.Errorf("copying the attribute %s of %s: %w", n, path, err)
		}
	}
	return nil
}

// isPrivileged reports whether the kernel lets only root, or nobody, set this
// attribute.
func isPrivileged(name string) bool {
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
