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

// storeFile is the file to write for a store's path. Symbolic links are followed, so that a link to
// a file in a dotfiles repository stays a link.
type storeFile struct {
	path   string // as given
	target string // the file to write, links followed
	disk
}

// disk is the part of file access that fault tests replace.
type disk struct {
	fault    func(point string)                  // called before every system call that changes something
	openTemp func(name string) (*os.File, error) // tests can return a full device
}

type diskKey struct{}

// diskOf returns the disk in the context, or the real one if a test has set none.
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

const maxLinks = 40 // the kernel's limit (path_resolution(7))

// CheckWritable returns the error Update would return, as far as it can be found without changing
// anything: a newer store, a file or directory this user may not write to, a full disk. Call it
// before work whose result has to be recorded.
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
	// Needed: the new version, the previous one, and 16 KiB for directories. A file system that
	// reports 0 blocks in total (some network file systems) is not full.
	if err := unix.Statfs(dir, &st); err == nil && st.Blocks > 0 && st.Bavail*uint64(st.Bsize) < uint64(2*len(s.Raw)+16<<10) {
		return f.failed(unix.ENOSPC)
	}
	return nil
}

// openStore finds the file to write and creates its directory.
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
			break // not a link, or absent
		}
		if !filepath.IsAbs(link) {
			// Resolve the directory's links first: ".." in a link is relative to the real
			// directory of the link.
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

// failed returns the message and hints for a write that failed with err.
func (f *storeFile) failed(err error) error {
	dir := filepath.Dir(f.target)
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return ui.Failed("cannot write the config %s: no space left: %w; nothing was changed", f.path, cause(err)).
			Hint(ui.Cmd("df -h " + shellescape.Quote(dir)))
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EROFS):
		return ui.Failed("cannot write the config %s: %w; nothing was changed", f.path, cause(err)).
			Hint(ui.Cmd("ls -ld "+shellescape.Quote(dir)+" "+shellescape.Quote(f.target)), ui.Remark("or use another config with --config PATH"))
	}
	return ui.Failed("cannot write the config %s: %w; nothing was changed", f.path, cause(err)).
		Hint(ui.Cmd("ls -ld " + shellescape.Quote(dir)))
}

func (f *storeFile) beside(name string) string {
	return filepath.Join(filepath.Dir(f.target), "."+filepath.Base(f.target)+name)
}

// lock waits for the lock file beside the store. The lock file is never removed: otherwise two
// processes could each hold a lock on different files of that name.
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
			return nil, ui.Failed("waited %.1f s for another aivm that is writing the config (lock file %s): %w",
				time.Since(started).Seconds(), name, ctx.Err()).Hint(ui.Cmd("fuser -v " + shellescape.Quote(name)))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// holder returns the process that holds the lock, from /proc/locks (proc_locks(5)). Nothing is
// written to the lock file, so that a run that is refused changes nothing.
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

// tryLock returns the locked file, or nil without an error if another process holds the lock.
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
		// The lock file may have been removed after it was opened; then other processes lock
		// another file, and this lock has no effect.
		var locked, named fs.FileInfo
		if locked, err = file.Stat(); err == nil {
			named, err = os.Stat(name)
		}
		if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(locked, named) {
			return nil, file.Close()
		}
	}
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("locking %s: %w", name, err)
	}
	return file, nil
}

// errChanged reports that a program that does not use the lock, such as a text editor, wrote the
// file after it was read.
var errChanged = errors.New("the file changed while it was being edited")

// replace writes the new version and keeps the version that was read as NAME.prev. The caller holds
// the lock. It returns errChanged if the file is no longer the one that was read.
func (f *storeFile) replace(s *Store, data []byte) error {
	var like fs.FileInfo
	if s.Exists {
		// rename would replace even a read-only file.
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
		return ui.Failed("wrote the config %s, but could not sync its directory to disk: %w", f.path, cause(err))
	}
	return nil
}

// write replaces a file in one rename; like gives mode and owner. Unlike renameio, it uses a fixed
// name for the temporary file: only the holder of the lock uses it, and the next run removes the
// file that a killed one left behind. check runs directly before the rename.
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
	// Some file systems cannot sync a directory (EINVAL); the rename is done anyway.
	if err := d.Sync(); err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}
