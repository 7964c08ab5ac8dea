package exportroot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
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

// RestoreFolders makes a VM's export root and mounts its recorded folders again,
// before the VM starts, as after a reboot of this machine. It skips a folder that
// does not exist any more, has another owner now, or has a link in its path: the
// VM starts without it, and the next aivm command names it. An error keeps the VM
// from starting: without the export root it could not see any folder as long as it
// runs, and while another process holds the lock no folder can be mounted.
func RestoreFolders(owner int, vm string) error {
	key := rootfile.VMKey(owner, vm)
	if !rootfile.ValidVMKey(key) {
		return nil
	}
	m, err := manifest.ReadVM(key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		// The next aivm command mounts its folders again.
		fmt.Fprintf(os.Stderr, "aivm: cannot read the list of folders of VM %s: %v\n", vm, err)
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
			return ui.Failed("making the export directory of VM %q: %w", vm, err)
		}
	}
	for _, o := range m.Folders {
		// A mounted folder with protected paths may lack the protecting mounts, which
		// are unmounted in this namespace once a daemon has them.
		if len(mountinfo.At(ms, filepath.Join(path, o.Token))) > 0 && len(o.Protect) == 0 {
			continue
		}
		err := bindAgain(o, owner)
		if errors.Is(err, rootfile.ErrLocked) {
			return err
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "aivm: VM %[2]s starts without folder %[1]s: %[3]v\n", o.Src, vm, err)
		}
	}
	return nil
}

// FinishProtection unmounts the mounts that protect paths in this namespace after a
// VM has started: its daemons have them, and on this machine they only stop
// programs from replacing the files. While another process holds the lock they
// stay until the next aivm command; the VM runs on.
func FinishProtection(owner int, vm string) {
	key := rootfile.VMKey(owner, vm)
	if !rootfile.ValidVMKey(key) {
		return
	}
	m, err := manifest.ReadVM(key)
	if err != nil {
		return // RestoreFolders has reported it
	}
	for _, o := range m.Folders {
		if len(o.Protect) == 0 {
			continue
		}
		if err := bindAgain(o, owner); err != nil {
			fmt.Fprintf(os.Stderr, "aivm: protecting folder %s from VM %s: %v\n", o.Src, vm, err)
			if errors.Is(err, rootfile.ErrLocked) {
				return // the next folder needs the same lock
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

// bindAgain mounts a folder as recorded, if the same user still owns it and can
// still reach it. The owner may have recreated the folder.
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
		return fmt.Errorf("its owner is %d:%d, and was %d:%d when it was shared", st.Uid, st.Gid, o.UID, o.GID)
	}
	o.Dev, o.Ino = st.Dev, st.Ino
	o.Groups = stillIn(o, owner)
	_, _, err = bind(o, o.Groups)
	return err
}

// stillIn returns the recorded groups of a folder without those that the user who
// shared it (root: the folder's owner) has left. A group or user that cannot be looked
// up counts as unchanged: root recorded it.
func stillIn(o record.Bind, owner int) []int {
	if len(o.Groups) == 0 {
		return nil
	}
	if owner == 0 {
		owner = o.UID
	}
	u, err := user.LookupId(strconv.Itoa(owner))
	if err != nil {
		return o.Groups
	}
	ids, err := u.GroupIds()
	if err != nil {
		return o.Groups
	}
	return slices.DeleteFunc(slices.Clone(o.Groups), func(g int) bool {
		id := strconv.Itoa(g)
		if slices.Contains(ids, id) {
			return false
		}
		_, err := user.LookupGroupId(id)
		return err == nil
	})
}

// openFolderAs opens a folder like openFolder, but with only the rights of the user.
// It runs on a separate thread: the kernel drops root's file capabilities of a
// thread whose fsuid is not 0.
func openFolderAs(path string, uid int) (fd int, err error) {
	if uid == 0 {
		return openFolder(path)
	}
	gid, groups := record.Nobody, []int{}
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		if n, err := strconv.Atoi(u.Gid); err == nil {
			gid = n
		}
		ids, _ := u.GroupIds() // groups that cannot be looked up grant nothing
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
