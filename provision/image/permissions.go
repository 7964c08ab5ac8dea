package image

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// makeDir creates the cache's directory. If other users can enter an existing one, it removes their
// permissions from the directory and the files in it: an image made from a VM may hold secrets.
// Files of other users are not changed.
func (c Cache) makeDir() error {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return err
	}
	if err := closeToOthers(c.Dir); err != nil {
		return err
	}
	files, err := os.ReadDir(c.Dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := closeToOthers(filepath.Join(c.Dir, f.Name())); err != nil {
			return err
		}
	}
	return nil
}

// closeToOthers removes all permissions of group and others from a file or directory of this user.
// It does not follow symbolic links, and ignores a file that does not exist.
func closeToOthers(path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok || int(sys.Uid) != os.Geteuid() || st.Mode().Perm()&0o077 == 0 || !st.IsDir() && !st.Mode().IsRegular() {
		return nil
	}
	if err := os.Chmod(path, st.Mode().Perm()&^0o077); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
