package config

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"al.essio.dev/pkg/shellescape"
	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/fileattrs"
	"aivm.dev/aivm/internal/ui"
)

// storeFile is the file behind a store's path: links are followed, so that a
// store kept in a dotfiles repository stays a link to it.
type storeFile struct {
	path   string // as given
	target string // as written
	disk
}

// disk is what the fault tests have in the place of the real one.
type disk struct {
	fault    func(point string)                  // called before every system call that changes something
	openTemp func(name string) (*os.File, error) // can hand out a full device
}

type diskKey struct{}

// diskOf is the disk of the context, the real one unless a test has put another
// there.
func diskOf(ctx context.Context) disk {
	d, _ := ctx.Value(diskKey{}).(disk)
	if d.fault == nil {
		d.fault = func(string) {}
	}
	if d.openTemp == nil {
		d.openTemp = func(name string) (*os.File, error) {
			return os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
		}
	}
	return d
}

const maxLinks = 40 // as the kernel (path_resolution(7))

// CheckWritable says why Update would fail, as far as that can be seen without
// changing anything: a newer store, a file or directory this user may not
// write to, a full disk. Ask it before work whose end is to be recorded.
func CheckWritable(path string) error {
	s, err := Load(path)
	if err != nil {
		return err
	}
	if s.Newer {
		return newer(s)
	}
	f, err := findStore(path)
	if err != nil {
		return err
	}
	if s.Exists {
		if err := unix.Access(f.target, unix.W_OK); err != nil {
			return f.failed(err)
		}
	}
	dir := filepath.Dir(f.target)
	for {
		err := unix.Access(dir, unix.W_OK|unix.X_OK)
		if errors.Is(err, unix.ENOENT) && dir != filepath.Dir(dir) {
			dir = filepath.Dir(dir)
			continue
		}
		if err != nil {
			return f.failed(err)
		}
		break
	}
	var st unix.Statfs_t
	// The new version, the one before it, and what a directory may need. A
	// file system that counts nothing (some network ones say 0 blocks in all)
	// is not full.
	if err := unix.Statfs(dir, &st); err == nil && st.Blocks > 0 && st.Bavail*uint64(st.Bsize) < uint64(2*len(s.Raw)+16<<10) {
		return f.failed(unix.ENOSPC)
	}
	return nil
}

// openStore finds the file and makes its directory.
func openStore(ctx context.Context, path string) (*storeFile, error) {
	f, err := findStore(path)
	if err != nil {
		return nil, err
	}
	f.disk = diskOf(ctx)
	f.fault("mkdir")
	if err := os.MkdirAll(filepath.Dir(f.target), 0o700); err != nil {
		return nil, f.failed(err)
	}
	return f, nil
}

func findStore(path string) (*storeFile, error) {
	f := &storeFile{path: path, target: path}
	for range maxLinks {
		link, err := os.Readlink(f.target)
		if err != nil {
			break // not a link, or not there
		}
		if !filepath.IsAbs(link) {
			// The directory's own links count first: ".." in a link is taken
			// from where the link really is.
			dir, err := filepath.EvalSymlinks(filepath.Dir(f.target))
			if err != nil {
				return nil, f.failed(err)
			}
			link = filepath.Join(dir, link)
		}
		f.target = link
	}
	return f, nil
}

// failed explains why the store could not be written.
func (f *storeFile) failed(err error) error {
	dir := filepath.Dir(f.target)
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return ui.Failed("cannot write the config store %s: no space left: %w; nothing was changed", f.path, cause(err)).
			Hint(ui.Cmd("df -h " + shellescape.Quote(dir)))
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EROFS):
		return ui.Failed("cannot write the config store %s: %w; nothing was changed", f.path, cause(err)).
			Hint(ui.Cmd("ls -ld "+shellescape.Quote(dir)+" "+shellescape.Quote(f.target)), ui.Remark("or use another store with --config PATH"))
	}
	return ui.Failed("cannot write the config store %s: %w; nothing was changed", f.path, cause(err)).
		Hint(ui.Cmd("ls -ld " + shellescape.Quote(dir)))
}

func (f *storeFile) beside(name string) string {
	return filepath.Join(filepath.Dir(f.target), "."+filepath.Base(f.target)+name)
}

// lock waits for the lock beside the file. The lock file is never removed:
// that would let two processes hold two locks of one name.
func (f *storeFile) lock(ctx context.Context) (unlock func(), err error) {
	name := f.beside(".lock")
	tell, _ := ctx.Value(waitKey{}).(func(string))
	started := time.Now()
	for {
		file, err := f.tryLock(name)
		if err != nil {
			return nil, f.failed(err)
		}
		if file != nil {
			return func() { _ = file.Close() }, nil
		}
		if tell != nil && time.Since(started) > 200*time.Millisecond {
			tell(holder(name))
			tell = nil
		}
		select {
		case <-ctx.Done():
			return nil, ui.Failed("waited %.1f s for another aivm that is writing the config store (lock %s): %w",
				time.Since(started).Seconds(), name, ctx.Err()).Hint(ui.Cmd("fuser -v " + shellescape.Quote(name)))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// holder is who holds the lock, as the kernel knows it (proc_locks(5)): nothing
// is written into the lock file, so that a run that is refused changes nothing.
func holder(name string) string {
	var st unix.Stat_t
	b, err := os.ReadFile("/proc/locks")
	if err == nil {
		err = unix.Stat(name, &st)
	}
	if err == nil {
		inode := ":" + strconv.FormatUint(st.Ino, 10)
		for line := range strings.Lines(string(b)) {
			// "1: FLOCK ADVISORY WRITE 4242 fe:01:1772839 0 EOF"
			f := strings.Fields(line)
			if len(f) > 5 && f[1] == "FLOCK" && strings.HasSuffix(f[5], inode) {
				if pid, err := strconv.Atoi(f[4]); err == nil && pid > 0 {
					return fmt.Sprintf("aivm (process %d)", pid)
				}
			}
		}
	}
	return "another aivm"
}

// tryLock returns nil without an error if another process has the lock.
func (f *storeFile) tryLock(name string) (*os.File, error) {
	f.fault("lock.open")
	file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	f.fault("lock.flock")
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR) {
		return nil, file.Close()
	}
	if err == nil {
		// Someone may have removed the name in between; a lock nobody else can
		// find is none.
		var mine, named fs.FileInfo
		if mine, err = file.Stat(); err == nil {
			named, err = os.Stat(name)
		}
		if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(mine, named) {
			return nil, file.Close()
		}
	}
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("locking %s: %w", name, err)
	}
	return file, nil
}

// errChanged: a program that knows nothing of the lock (an editor) wrote the
// file after it was read.
var errChanged = errors.New("the file changed while it was being edited")

// replace writes the new version and keeps the one that was read as NAME.prev.
// The lock is held. It returns errChanged if
// the file is no longer the one that was read.
func (f *storeFile) replace(s *Store, data []byte) error {
	var like fs.FileInfo
	if s.Exists {
		// rename would get around a file that was made read-only.
		if err := unix.Access(f.target, unix.W_OK); err != nil {
			return f.failed(err)
		}
		var err error
		if like, err = os.Stat(f.target); err != nil {
			return f.failed(err)
		}
		if err := f.write(f.target+".prev", s.Raw, like, nil); err != nil {
			return f.failed(err)
		}
	}
	unchanged := func() error {
		raw, exists, err := readFile(f.target)
		if err == nil && (exists != s.Exists || !bytes.Equal(raw, s.Raw)) {
			return errChanged
		}
		return err
	}
	if err := f.write(f.target, data, like, unchanged); errors.Is(err, errChanged) {
		return err
	} else if err != nil {
		return f.failed(err)
	}
	f.fault("dir.sync")
	if err := syncDir(filepath.Dir(f.target)); err != nil {
		return ui.Failed("wrote the config store %s, but its directory could not be synced to disk: %w", f.path, cause(err))
	}
	return nil
}

// write replaces a file in one rename; like gives mode and owner. The name of
// the temporary file is fixed, where renameio makes a new one each time: only
// the holder of the lock uses it, and what a killed one left is removed by the
// next. check runs last before the rename.
func (f *storeFile) write(name string, data []byte, like fs.FileInfo, check func() error) (err error) {
	temp := f.beside(".tmp")
	f.fault("temp.remove")
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f.fault("temp.open")
	file, err := f.openTemp(temp)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = file.Close()
			_ = os.Remove(temp)
		}
	}()
	f.fault("temp.write")
	if _, err := file.Write(data); err != nil {
		return err
	}
	if like != nil {
		if err := errors.Join(f.keepOwnerAndMode(file, like), fileattrs.Keep(file, f.target)); err != nil {
			return err
		}
	}
	f.fault("temp.sync")
	if err := file.Sync(); err != nil {
		return err
	}
	f.fault("temp.close")
	if err := file.Close(); err != nil {
		return err
	}
	if check != nil {
		if err := check(); err != nil {
			return err
		}
	}
	f.fault("rename")
	return os.Rename(temp, name)
}

func (f *storeFile) keepOwnerAndMode(file *os.File, like fs.FileInfo) error {
	var now unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &now); err != nil {
		return err
	}
	if old, ok := like.Sys().(*syscall.Stat_t); ok && (now.Uid != old.Uid || now.Gid != old.Gid) {
		f.fault("temp.chown")
		if err := file.Chown(int(old.Uid), int(old.Gid)); err != nil {
			return fmt.Errorf("keeping its owner: %w", err)
		}
	}
	f.fault("temp.chmod")
	return file.Chmod(like.Mode().Perm())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	// Some file systems cannot sync a directory (EINVAL); the rename stands.
	if err := d.Sync(); err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}
