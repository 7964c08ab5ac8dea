package root

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/mountinfo"
	"aivm.dev/aivm/internal/ui"
)

// OldShares takes the folders away that aivm 0.3 bound below the storage of a
// VM, BaseDir/VM/shared-root, and then the directories that are empty. It
// unmounts one by one, never lazily, and removes nothing but empty directories.
type OldShares struct {
	BaseDir string `json:"base_dir"`
	VM      string `json:"vm"`
}

// OldSharesDir is where 0.3 bound a VM's folders.
func OldSharesDir(baseDir, vm string) string { return filepath.Join(baseDir, vm, "shared-root") }

// Kind implements Op.
func (OldShares) Kind() string { return "old-shares" }

func (OldShares) sealed() {}

// Shows implements Op.
func (o OldShares) Shows() []string {
	d := OldSharesDir(o.BaseDir, o.VM)
	return []string{"umount " + quote(d) + "/*", "rmdir " + quote(d) + "/* " + quote(d)}
}

func removeOldShares(o OldShares) error {
	top := OldSharesDir(o.BaseDir, o.VM)
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
		if err := unmountSoon(m); err != nil {
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
