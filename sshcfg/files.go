package sshcfg

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/gofrs/flock"
	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/ui"
)

// File is the result of reading a file.
type File struct {
	Path   string // as given
	Target string // where its symlinks lead; Path if there are none
	Exists bool
	Mode   fs.FileMode
	Data   []byte
	// Blocked is the reason why Target cannot be replaced; nil if it can.
	Blocked error

	uid, gid int
	dev, ino uint64
}

// readFile reads a regular file, following symlinks. For a missing file, including the
// target of a dangling link, it returns a File with Exists false. If the file cannot be
// read for another reason, it returns an error.
func readFile(path string) (File, error) {
	f := File{Path: path}
	target, err := resolve(path)
	if err != nil {
		return f, err
	}
	f.Target = target
	// O_NONBLOCK: opening a FIFO must not block.
	fh, err := os.OpenFile(target, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		f.Blocked = dirBlocked(filepath.Dir(target))
		return f, nil
	}
	if err != nil {
		return f, err
	}
	defer fh.Close()
	st, err := fh.Stat()
	if err != nil {
		return f, err
	}
	if !st.Mode().IsRegular() {
		return f, fmt.Errorf("%s is not a regular file", target)
	}
	if st.Size() > maxFile {
		return f, fmt.Errorf("%s is larger than %d MiB", target, maxFile>>20)
	}
	f.Data = make([]byte, 0, st.Size()+1)
	buf := make([]byte, 32<<10)
	for {
		n, err := fh.Read(buf)
		f.Data = append(f.Data, buf[:n]...)
		if n == 0 || err != nil {
			break
		}
	}
	f.Exists, f.Mode = true, st.Mode().Perm()
	links := uint64(1)
	if s, ok := st.Sys().(*syscall.Stat_t); ok {
		f.uid, f.gid, f.dev, f.ino = int(s.Uid), int(s.Gid), s.Dev, s.Ino
		links = uint64(s.Nlink)
	}
	// A rename replaces a file without its owner's write bit too, and for root the mode
	// never matters; the bit is respected here, since its absence means that programs
	// should not change the file. A rename would also leave the file's other hard links
	// with the old content.
	if why := unreplaceable(target); why != "" {
		f.Blocked = fmt.Errorf("%s %s", target, why)
	} else if links > 1 {
		f.Blocked = fmt.Errorf("%s has %d names (hard links), and the others would keep the old content; find them with: find DIRECTORY -samefile %s", target, links, target)
	} else if f.Mode&0o200 == 0 {
		f.Blocked = fmt.Errorf("%s is read-only (mode %04o)", target, f.Mode)
	} else {
		f.Blocked = dirBlocked(filepath.Dir(target))
	}
	return f, nil
}

// maxFile is the maximum size of a file to read, in bytes.
const maxFile = 16 << 20

// dirBlocked returns the reason why no file can be renamed into dir, nil if one can. If dir
// is a missing .ssh, which is created later, it checks its parent.
func dirBlocked(dir string) error {
	err := unix.Access(dir, unix.W_OK|unix.X_OK)
	if errors.Is(err, unix.ENOENT) && filepath.Base(dir) == ".ssh" {
		dir = filepath.Dir(dir)
		err = unix.Access(dir, unix.W_OK|unix.X_OK)
	}
	if err != nil {
		return fmt.Errorf("%s is not writable: %w", dir, err)
	}
	if st, err := os.Stat(dir); err == nil && st.Mode().Perm()&0o200 == 0 {
		return fmt.Errorf("%s is read-only (mode %04o)", dir, st.Mode().Perm())
	}
	if why := attributeBlocks(dir, unix.STATX_ATTR_APPEND); why != "" {
		return fmt.Errorf("%s %s", dir, why) // files can be created in it, but not renamed
	}
	return nil
}

// unreplaceable returns why no file can be renamed over path although the directory is
// writable; "" if one can, or the file system does not say.
func unreplaceable(path string) string {
	return attributeBlocks(path, unix.STATX_ATTR_IMMUTABLE|unix.STATX_ATTR_APPEND|unix.STATX_ATTR_MOUNT_ROOT)
}

// attributeBlocks describes the first of these attributes that path has; "" if it has none.
func attributeBlocks(path string, attributes uint64) string {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE, &st); err != nil {
		return ""
	}
	switch has := st.Attributes & attributes; {
	case has&unix.STATX_ATTR_IMMUTABLE != 0:
		return "is immutable (chattr +i)"
	case has&unix.STATX_ATTR_APPEND != 0:
		return "can only be appended to (chattr +a)"
	case has&unix.STATX_ATTR_MOUNT_ROOT != 0:
		return "is a mount point, so that no other file can take its place"
	}
	return ""
}

// resolve follows all symlinks of a path. Unlike filepath.EvalSymlinks, it also resolves a
// last one that dangles.
func resolve(path string) (string, error) {
	for range 40 {
		dir, err := filepath.EvalSymlinks(filepath.Dir(path))
		if errors.Is(err, fs.ErrNotExist) {
			return path, nil
		}
		if err != nil {
			return "", err
		}
		path = filepath.Join(dir, filepath.Base(path))
		to, err := os.Readlink(path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EINVAL) {
			return path, nil // absent, or not a link
		}
		if err != nil {
			return "", err
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(dir, to)
		}
		path = to
	}
	return "", fmt.Errorf("%s: too many symbolic links", path)
}

// makeDir creates a directory of aivm with mode 0700, or changes its mode to that.
func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return ui.Failed("creating %s: %w", dir, err)
	}
	st, err := os.Stat(dir)
	if err != nil {
		return ui.Failed("reading %s: %w", dir, err)
	}
	if st.Mode().Perm() != 0o700 {
		if err := os.Chmod(dir, 0o700); err != nil {
			return ui.Failed("changing the mode of %s to 0700: %w", dir, err)
		}
	}
	return nil
}

// replaceOwn writes a file of aivm atomically, with mode 0600.
func replaceOwn(path string, data []byte) error {
	if err := makeDir(filepath.Dir(path)); err != nil {
		return err
	}
	t, err := tempFor(path, data, 0o600)
	if err != nil {
		return err
	}
	defer t.Cleanup() //nolint:errcheck // after the rename there is nothing to clean up
	if err := t.CloseAtomicallyReplace(); err != nil {
		return ui.Failed("writing %s: %w", path, err)
	}
	return syncDir(filepath.Dir(path))
}

// createOwn writes a file of aivm that must not exist yet; if it does, the error wraps
// fs.ErrExist. It uses link, which unlike rename never replaces a file.
func createOwn(path string, data []byte, mode fs.FileMode) error {
	if err := makeDir(filepath.Dir(path)); err != nil {
		return err
	}
	t, err := tempFor(path, data, mode)
	if err != nil {
		return err
	}
	defer t.Cleanup() //nolint:errcheck // it only removes the temporary name
	if err := t.Sync(); err != nil {
		return ui.Failed("writing %s: %w", path, err)
	}
	if err := os.Link(t.Name(), path); err != nil {
		return ui.Failed("writing %s: %w", path, err)
	}
	return syncDir(filepath.Dir(path))
}

// tempFor creates the temporary file that will become path. It is in the same directory,
// since a rename cannot cross file systems.
func tempFor(path string, data []byte, mode fs.FileMode) (*renameio.PendingFile, error) {
	t, err := renameio.TempFile(filepath.Dir(path), path)
	if err != nil {
		return nil, ui.Failed("writing %s: %w", path, err)
	}
	if err = t.Chmod(mode); err == nil {
		_, err = t.Write(data)
	}
	if err != nil {
		t.Cleanup() //nolint:errcheck // the write error says more
		return nil, ui.Failed("writing %s: %w", path, err)
	}
	return t, nil
}

// syncDir syncs a directory, so that a rename in it survives a crash.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return ui.Failed("syncing %s: %w", dir, err)
	}
	defer d.Close()
	// Some file systems cannot sync a directory; the file's content is synced already.
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOTSUP) {
		return ui.Failed("syncing %s: %w", dir, err)
	}
	return nil
}

// lock takes this store's lock for writing the user's SSH configuration. The kernel
// releases it when the process ends.
func (l Layout) lock(ctx context.Context) (unlock func(), err error) {
	if err := makeDir(l.StateDir); err != nil {
		return nil, err
	}
	fl := flock.New(l.lockPath(), flock.SetPermissions(0o600))
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if _, err := fl.TryLockContext(ctx, 20*time.Millisecond); err != nil {
		return nil, ui.Failed("waiting for %s, held by another aivm: %w", l.lockPath(), err)
	}
	return func() { fl.Close() }, nil
}
