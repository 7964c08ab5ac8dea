package exportroot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/mount"
	"aivm.dev/aivm/internal/root/mountinfo"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/ui"
)

// RemoveOldShares unmounts the folders that aivm 0.3 mounted, and removes the
// directories that are empty.
func RemoveOldShares(o record.OldShares) error {
	top := record.OldSharesDir(o.BaseDir, o.VM)
	fd, err := unix.Openat2(unix.AT_FDCWD, top, &unix.OpenHow{Flags: unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS})
	if errors.Is(err, fs.ErrNotExist) {
		return removeEmpty(filepath.Dir(top))
	}
	if err != nil {
		return fmt.Errorf("opening %s: %w", top, err)
	}
	d := os.NewFile(uintptr(fd), top)
	defer d.Close()
	// A user who can write here could have put another directory in the place of a
	// mount point.
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Uid != 0 || st.Mode&0o022 != 0 {
		return ui.Refused("users other than root can write to directory %s", top)
	}
	ms, err := mountinfo.Read(mountinfo.Self)
	if err != nil {
		return err
	}
	below := mountinfo.Below(ms, top)
	slices.Reverse(below) // the last mount is unmounted first
	for _, m := range below {
		if m.Point == top {
			continue
		}
		if err := mount.UnmountSoon(m); err != nil {
			return err
		}
	}
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, n := range names {
		_ = unix.Unlinkat(fd, n, unix.AT_REMOVEDIR) // keeps a directory that is not empty
	}
	if err := removeEmpty(top); err != nil {
		return err
	}
	return removeEmpty(filepath.Dir(top))
}

// removeEmpty removes a directory if it exists and is empty.
func removeEmpty(dir string) error {
	err := unix.Rmdir(dir)
	if err == nil || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EBUSY) {
		return nil
	}
	return fmt.Errorf("removing %s: %w", dir, err)
}
