package exportroot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/manifest"
	"aivm.dev/aivm/internal/root/mount"
	"aivm.dev/aivm/internal/root/mountinfo"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/root/rootfile"
	"aivm.dev/aivm/internal/ui"
)

// PutBack runs before a VM starts: its export root and what was bound
// there are put back, as after a reboot of this machine. A folder that is gone,
// has another owner now, or has a link on its way is left out and keeps nobody
// from starting his VM: the next aivm command names it. Without the export root
// the VM must not start, for it could never see a folder again while it runs;
// nor where another process holds the lock, for then none of them comes back.
func PutBack(owner int, vm string) error {
	key := rootfile.VMKey(owner, vm)
	if !rootfile.ValidVMKey(key) {
		return nil
	}
	m, err := manifest.ReadVM(key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		// Its folders come back with the next aivm command.
		fmt.Fprintf(os.Stderr, "aivm: the folders of VM %s are not known: %v\n", vm, err)
		return nil
	}
	path, err := rootfile.ResolvedExport(key)
	if err != nil {
		return err
	}
	ms, err := mountinfo.Read(mountinfo.Self)
	if err != nil {
		return err
	}
	if !exportedAt(ms, path) {
		if err := Make(record.Export{VMKey: key}); err != nil {
			return ui.Failed("the place for the folders of VM %q cannot be made: %w", vm, err)
		}
	}
	for _, o := range m.Folders {
		// One with protected paths may be there without the mounts that protect
		// them: they are taken off here once a daemon has them.
		if len(mountinfo.At(ms, filepath.Join(path, o.Token))) > 0 && len(o.Protect) == 0 {
			continue
		}
		err := bindAgain(o, owner)
		if errors.Is(err, rootfile.ErrLocked) {
			return err
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "aivm: folder %s stays away from VM %s: %v\n", o.Src, vm, err)
		}
	}
	return nil
}

// Settle runs when a VM has started: its daemons have the mounts that
// protect paths, and here they are only in the way. Where another process holds
// the lock they stay until the next aivm command: that is no reason to end the
// VM.
func Settle(owner int, vm string) {
	key := rootfile.VMKey(owner, vm)
	if !rootfile.ValidVMKey(key) {
		return
	}
	m, err := manifest.ReadVM(key)
	if err != nil {
		return // said when it was about to start
	}
	for _, o := range m.Folders {
		if len(o.Protect) == 0 {
			continue
		}
		if err := bindAgain(o, owner); err != nil {
			fmt.Fprintf(os.Stderr, "aivm: protecting folder %s from VM %s: %v\n", o.Src, vm, err)
			if errors.Is(err, rootfile.ErrLocked) {
				return // so would be the next
			}
		}
	}
}

func exportedAt(ms []mountinfo.Mount, path string) bool {
	at := mountinfo.At(ms, path)
	if len(at) != 1 {
		return false
	}
	_, shared := at[0].Shared()
	return shared
}

// bindAgain binds a folder as it was, if it is still the same person's: it may
// have been made anew since, but not by somebody else, and the person must
// still be able to get there.
func bindAgain(o record.Bind, owner int) error {
	fd, err := openFolderAs(o.Src, owner)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	unix.Close(fd)
	if err != nil {
		return err
	}
	if int(st.Uid) != o.UID || int(st.Gid) != o.GID {
		return fmt.Errorf("it belongs to %d:%d now, and belonged to %d:%d when it was shared", st.Uid, st.Gid, o.UID, o.GID)
	}
	o.Dev, o.Ino = st.Dev, st.Ino
	_, err = bind(o)
	return err
}

// openFolderAs is openFolder with no more rights than the user has, on a thread
// of its own: the kernel takes root's own away from one with another fsuid.
func openFolderAs(path string, uid int) (fd int, err error) {
	if uid == 0 {
		return openFolder(path)
	}
	gid, groups := record.Nobody, []int{}
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		if n, err := strconv.Atoi(u.Gid); err == nil {
			gid = n
		}
		ids, _ := u.GroupIds() // a group that cannot be found gives no right
		for _, g := range ids {
			if n, err := strconv.Atoi(g); err == nil {
				groups = append(groups, n)
			}
		}
	}
	err = mount.OnThread(func() error {
		// unix.Setgroups would change all threads.
		list := make([]uint32, len(groups)+1)
		for i, g := range groups {
			list[i] = uint32(g)
		}
		if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(&list[0])), 0); e != 0 {
			return e
		}
		if err := errors.Join(unix.Setfsgid(gid), unix.Setfsuid(uid)); err != nil {
			return err
		}
		fd, err = openFolder(path)
		return err
	})
	if err != nil {
		return -1, err
	}
	return fd, nil
}
