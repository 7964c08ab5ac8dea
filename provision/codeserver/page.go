package codeserver

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// PageDir returns the directory of the pages that lead a browser to the editor:
// aivm's own in the user's runtime directory if that is one, else below state.
func PageDir(runtime, state string) string {
	if st, err := os.Lstat(runtime); err == nil && filepath.IsAbs(runtime) && st.IsDir() && own(st) {
		return filepath.Join(runtime, "aivm")
	}
	return filepath.Join(state, ".open") // no VM can have that name
}

// own reports whether a directory is this user's and nobody else's to enter.
func own(st os.FileInfo) bool {
	sys, ok := st.Sys().(*syscall.Stat_t)
	return ok && int(sys.Uid) == os.Geteuid() && st.Mode().Perm()&0o077 == 0
}

const (
	pagePattern = "open-*.html"
	pageTries   = 100
)

// WritePage writes a page for this user's eyes that leads a browser to address.
// The command line of a browser is public, the address with its token is not.
// remove takes the page away, and the directory if it was the last one; what a
// killed run left goes with the next page.
func WritePage(dir, address string) (path string, remove func(), err error) {
	var f *os.File
	for range pageTries {
		f, err = newPage(dir)
		// Another run can take its own page away meanwhile, and the directory with it.
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrExist) {
			break
		}
	}
	if err != nil {
		return "", nil, err
	}
	remove = func() {
		_ = os.Remove(f.Name())
		_ = os.Remove(dir) // fails while there are others
	}
	_, err = f.WriteString(forward(address))
	if err = errors.Join(err, f.Close()); err != nil {
		remove()
		return "", nil, err
	}
	return f.Name(), remove, nil
}

// newPage makes an empty page, and the directory if it is not there.
func newPage(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, err
	}
	old, _ := filepath.Glob(filepath.Join(dir, pagePattern))
	for _, p := range old {
		if st, err := os.Lstat(p); err == nil && time.Since(st.ModTime()) > 2*Invitation {
			_ = os.Remove(p)
		}
	}
	return os.CreateTemp(dir, pagePattern) // 0600
}
