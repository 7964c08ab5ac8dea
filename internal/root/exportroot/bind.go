package exportroot

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/mount"
	"aivm.dev/aivm/internal/root/mountinfo"
	"aivm.dev/aivm/internal/root/protect"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/ui"
)

// bind is the share primitive. Everything is set on a detached clone, so the
// mount appears below the export finished or not at all: read-only,
// nosuid and the owner map reach every namespace it propagates to.
func bind(o record.Bind) (note string, err error) {
	src, err := openFolder(o.Src)
	if err != nil {
		return "", err
	}
	defer unix.Close(src)
	var st unix.Stat_t
	if err := unix.Fstat(src, &st); err != nil {
		return "", err
	}
	if st.Dev != o.Dev || st.Ino != o.Ino {
		return "", ui.Refused("%s is not the folder that was looked at: it was replaced meanwhile", o.Src).
			Hint(ui.Remark("if that was you, run the command again"))
	}

	d, err := openExport(o.VMKey, false)
	if err != nil {
		return "", err
	}
	defer d.Close()
	ms, err := mountinfo.Read(mountinfo.Self)
	if err != nil {
		return "", err
	}
	exports := mountinfo.At(ms, d.path)
	if len(exports) != 1 {
		return "", ui.Failed("%s is mounted %d times, once was expected", d.path, len(exports))
	}
	if _, ok := exports[0].Shared(); !ok {
		return "", ui.Failed("%s is not a shared mount, the VM would not see the folder", d.path)
	}

	tree, mapped, note, err := shareTree(src, o)
	if err != nil {
		return "", err
	}
	defer unix.Close(tree)

	point := filepath.Join(d.path, o.Token)
	switch layers := mountinfo.At(ms, point); len(layers) {
	case 0:
		if err := d.makeToken(o.Token); err != nil {
			return "", fmt.Errorf("making %s: %w", point, err)
		}
	case 1:
		if !ours(layers[0], exports[0]) {
			return "", ui.Refused("something that is not ours is mounted on %s", point).
				Hint(ui.Remark("look at it: grep " + o.Token + " /proc/self/mountinfo"))
		}
		same, err := sameTree(tree, d.fd, o.Token, mapped, layers[0])
		if err != nil {
			return "", err
		}
		if same && len(o.Protect) == 0 {
			return note, nil
		}
		if same {
			// A daemon that has it keeps it, and is given what it lacks; one
			// that is going to be started must find it with all mounts on it.
			served, err := protect.SettleServed(o, layers[0], exports[0])
			if err != nil || served {
				return note, err
			}
		}
		if err := protect.LetGo(layers[0], exports[0]); err != nil {
			return "", err
		}
		if err := mount.UnmountSoon(layers[0]); err != nil {
			return "", err
		}
	default:
		return "", ui.Refused("%d mounts lie on top of each other on %s", len(layers), point).
			Hint(ui.Remark("look at them: grep " + o.Token + " /proc/self/mountinfo"))
	}
	if len(o.Protect) > 0 {
		whole, missing, err := protect.Tree(tree, o.Protect)
		if err != nil {
			return "", err
		}
		defer unix.Close(whole)
		tree = whole
		if len(missing) > 0 {
			note = strings.TrimPrefix(note+"; ", "; ") + fmt.Sprintf("not protected, since they are missing or links: %s", strings.Join(missing, ", "))
		}
	}
	if err := unix.MoveMount(tree, "", d.fd, o.Token, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return "", fmt.Errorf("mounting %s: %w", point, err)
	}
	if len(o.Protect) == 0 {
		return note, protect.Forget(o.VMKey, o.Token)
	}
	ms, err = mountinfo.Read(mountinfo.Self)
	if err != nil {
		return "", err
	}
	made := mountinfo.At(ms, point)
	if len(made) != 1 {
		return "", ui.Failed("%s is mounted %d times, once was expected", point, len(made))
	}
	return note, protect.Settle(o, made[0], exports[0])
}

// openFolder opens a host folder without following any link: a guest with
// write access to the parent could have planted one (shares.md 12).
func openFolder(path string) (int, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	switch {
	case err == nil:
		return fd, nil
	case errors.Is(err, unix.ELOOP):
		return -1, ui.Refused("a part of %s is a symbolic link now", path).Hint(ui.Remark("attach the folder the link leads to, if that is what you want"))
	case errors.Is(err, unix.ENOTDIR):
		return -1, ui.Refused("%s is not a folder", path)
	case errors.Is(err, unix.ENOENT):
		return -1, ui.Refused("folder %s is gone", path)
	}
	return -1, fmt.Errorf("opening folder %s: %w", path, err)
}

// shareTree clones the folder and dresses the clone.
func shareTree(src int, o record.Bind) (tree int, mapped bool, note string, err error) {
	tree, err = mount.Clone(src)
	if err != nil {
		return -1, false, "", fmt.Errorf("cloning the mount of %s: %w", o.Src, err)
	}
	defer func() {
		if err != nil {
			unix.Close(tree)
		}
	}()
	attr := unix.MountAttr{
		Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV,
		// Out of the folder's own peer group: a mount somebody makes below
		// the folder later must not appear in the guest.
		Propagation: unix.MS_PRIVATE,
	}
	if o.RO {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if err = unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		if errors.Is(err, unix.ENOSYS) {
			err = ui.Refused("this kernel is too old to share folders safely (5.12 or newer is needed)")
		}
		return -1, false, "", fmt.Errorf("restricting the mount of %s: %w", o.Src, err)
	}
	ns, err := ownerNamespace(o.UID, o.GID)
	if err != nil {
		return -1, false, "", err
	}
	defer ns.Close()
	err = unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &unix.MountAttr{
		Attr_set:  unix.MOUNT_ATTR_IDMAP,
		Userns_fd: uint64(ns.Fd()),
	})
	switch {
	case err == nil:
		return tree, true, "", nil
	// EINVAL: the file system cannot. EPERM: the folder already lies on a
	// mount with a map, which the clone keeps.
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EPERM):
		return tree, false, fmt.Sprintf("the file system of %s cannot map owners: files made by root in the guest belong to root on this machine", o.Src), nil
	}
	return -1, false, "", fmt.Errorf("mapping the owner of %s: %w", o.Src, err)
}

// ours reports whether m is a token made by bind: directly on the export, with
// the flags no token is without.
func ours(m, export mountinfo.Mount) bool {
	return m.Parent == export.ID && m.Has("nosuid") && m.Has("nodev")
}

// sameTree reports whether what is mounted on the token is what the new tree
// would be. The owner through the map is compared too: a folder whose owner
// changed needs a new map.
func sameTree(tree, dir int, token string, mapped bool, m mountinfo.Mount) (bool, error) {
	old, err := unix.Openat(dir, token, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, fmt.Errorf("opening %s: %w", m.Point, err)
	}
	defer unix.Close(old)
	var st [2]unix.Stat_t
	var fs [2]unix.Statfs_t
	for i, fd := range []int{tree, old} {
		if err := unix.Fstat(fd, &st[i]); err != nil {
			return false, err
		}
		if err := unix.Fstatfs(fd, &fs[i]); err != nil {
			return false, err
		}
	}
	const flags = unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV
	return st[0].Dev == st[1].Dev && st[0].Ino == st[1].Ino &&
		st[0].Uid == st[1].Uid && st[0].Gid == st[1].Gid &&
		fs[0].Flags&flags == fs[1].Flags&flags && (!mapped || m.Has("idmapped")), nil
}

// unbind takes a token away: the mount, then its directory.
func unbind(o record.Unbind) error {
	d, err := openExport(o.VMKey, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	ms, err := mountinfo.Read(mountinfo.Self)
	if err != nil {
		return err
	}
	point := filepath.Join(d.path, o.Token)
	switch layers := mountinfo.At(ms, point); len(layers) {
	case 0:
	case 1:
		exports := mountinfo.At(ms, d.path)
		if len(exports) != 1 || !ours(layers[0], exports[0]) {
			return ui.Refused("something that is not ours is mounted on %s", point).
				Hint(ui.Remark("look at it: grep " + o.Token + " /proc/self/mountinfo"))
		}
		if err := protect.LetGo(layers[0], exports[0]); err != nil {
			return err
		}
		if err := mount.UnmountSoon(layers[0]); err != nil {
			return err
		}
	default:
		return ui.Refused("%d mounts lie on top of each other on %s", len(layers), point).
			Hint(ui.Remark("look at them: grep " + o.Token + " /proc/self/mountinfo"))
	}
	if err := d.removeToken(o.Token); err != nil {
		return fmt.Errorf("removing %s: %w", point, err)
	}
	return protect.Forget(o.VMKey, o.Token)
}
