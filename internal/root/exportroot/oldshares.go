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

// RemoveOldShares does what the record says: what aivm 0.3 bound is unmounted,
// and the directories that are empty go.
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
	// Whoever else could write here could have put a directory of anybody's in
	// the way of a mount that is to go.
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Uid != 0 || st.Mode&0o022 != 0 {
		return ui.Refused("%s can be written by others than root", top)
	}
	ms, err := mountinfo.Read(mountinfo.Self)
	if err != nil {
		return err
	}
	below := mountinfo.Below(ms, top)
	slices.Reverse(below) // what was mounted last goes first
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
		_ = unix.Unlinkat(fd, n, unix.AT_REMOVEDIR) // one that is not empty stays
	}
	if err := removeEmpty(top); err != nil {
		return err
	}
	return removeEmpty(filepath.Dir(top))
}

// removeEmpty removes a directory if it is there and nothing is in it.
func removeEmpty(dir string) error {
	err := unix.Rmdir(dir)
	if err == nil || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EBUSY) {
		return nil
	}
	return fmt.Errorf("removing %s: %w", dir, err)
}
