package codeserver

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// PageDir returns the directory of the pages that forward a browser to the editor: aivm's in the
// user's runtime directory if that is private to the user, else one below state.
func PageDir(runtime, state string) string {
	if st, err := os.Lstat(runtime); err == nil && filepath.IsAbs(runtime) && st.IsDir() && own(st) {
		return filepath.Join(runtime, "aivm")
	}
	return filepath.Join(state, ".open") // no VM can have that name
}

// own reports whether a directory belongs to this user and no other user can enter it.
func own(st os.FileInfo) bool {
	sys, ok := st.Sys().(*syscall.Stat_t)
	return ok && int(sys.Uid) == os.Geteuid() && st.Mode().Perm()&0o077 == 0
}

const (
	pagePattern = "open-*.html"
	pageTries   = 100
)

// WritePage writes a page, readable by this user only, that forwards a browser to address. The
// address with its token must not be on the browser's command line, which other users can read.
// remove removes the page, and the directory if it is empty then. Pages of killed runs are removed
// by the next call.
func WritePage(dir, address string) (path string, remove func(), err error) {
	var f *os.File
	for range pageTries {
		f, err = newPage(dir)
		// Another run may remove the directory with its last page between two steps.
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrExist) {
			break
		}
	}
	if err != nil {
		return "", nil, err
	}
	remove = func() {
		_ = os.Remove(f.Name())
		_ = os.Remove(dir) // fails while it has other pages
	}
	_, err = f.WriteString(redirectPage(address))
	if err = errors.Join(err, f.Close()); err != nil {
		remove()
		return "", nil, err
	}
	return f.Name(), remove, nil
}

// newPage creates an empty page, and the directory if it does not exist.
func newPage(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, err
	}
	pages, _ := filepath.Glob(filepath.Join(dir, pagePattern))
	for _, p := range pages {
		if st, err := os.Lstat(p); err == nil && time.Since(st.ModTime()) > 2*InviteLifetime {
			_ = os.Remove(p)
		}
	}
	return os.CreateTemp(dir, pagePattern) // 0600
}
