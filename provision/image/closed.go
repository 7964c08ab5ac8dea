package image

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// makeDir makes the cache's directory, and closes one that other users can
// enter, with the files in it: an image made of a VM may hold secrets. What
// belongs to somebody else stays as it is.
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

// closeToOthers takes all rights of group and others away from a file or
// directory of this user; a link is not followed, a file that is gone is none.
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
