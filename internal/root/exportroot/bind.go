package exportroot

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/mount"
	"aivm.dev/aivm/internal/root/mountinfo"
	"aivm.dev/aivm/internal/root/protect"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/ui"
)

// bind mounts a host folder on its token. It sets all attributes on a detached
// clone, so the mount appears below the export complete or not at all: read-only,
// nosuid and the owner map hold in every namespace it propagates to. was are the
// groups of the mount that exists already; while that is in use it stays, so groups
// are those of the mount in the end.
func bind(o record.Bind, was []int) (note string, groups []int, err error) {
	src, err := openFolder(o.Src)
	if err != nil {
		return "", nil, err
	}
	defer unix.Close(src)
	var st unix.Stat_t
	if err := unix.Fstat(src, &st); err != nil {
		return "", nil, err
	}
	if st.Dev != o.Dev || st.Ino != o.Ino {
		return "", nil, ui.Refused("folder %s was replaced since aivm checked it", o.Src).
			Hint(ui.Remark("if you replaced it, run the command again"))
	}

	d, err := openExport(o.VMKey, false)
	if err != nil {
		return "", nil, err
	}
	defer d.Close()
	ms, err := mountinfo.Read(mountinfo.Self)
	if err != nil {
		return "", nil, err
	}
	exports := mountinfo.At(ms, d.path)
	if len(exports) != 1 {
		return "", nil, ui.Failed("%s is mounted %d times instead of once", d.path, len(exports))
	}
	if _, ok := exports[0].Shared(); !ok {
		return "", nil, ui.Failed("%s is not a shared mount: the VM would not see the folder", d.path)
	}

	tree, mapped, note, err := shareTree(src, o)
	if err != nil {
		return "", nil, err
	}
	defer unix.Close(tree)

	point := filepath.Join(d.path, o.Token)
	switch layers := mountinfo.At(ms, point); len(layers) {
	case 0:
		if err := d.makeToken(o.Token); err != nil {
			return "", nil, fmt.Errorf("making %s: %w", point, err)
		}
	case 1:
		if !isTokenMount(layers[0], exports[0]) {
			return "", nil, notTokenMount(point, o.Token)
		}
		same, err := sameTree(tree, d.fd, o.Token, mapped, layers[0])
		if err != nil {
			return "", nil, err
		}
		regroup := same && mapped && !slices.Equal(was, o.Groups)
		if same && !regroup && len(o.Protect) == 0 {
			return note, o.Groups, nil
		}
		if same && len(o.Protect) > 0 {
			// A daemon that serves the token keeps it, and gets the protecting mounts
			// it lacks. A daemon that starts later must find all of them on the token.
			served, err := protect.EnforceServed(o, layers[0], exports[0])
			if err != nil || served {
				return note, was, err
			}
		}
		if err := protect.UnmountCopies(layers[0], exports[0]); err != nil {
			return "", nil, err
		}
		if err := mount.UnmountSoon(layers[0]); err != nil {
			if regroup && errors.Is(err, mount.ErrInUse) {
				return note, was, nil
			}
			return "", nil, err
		}
	default:
		return "", nil, stacked(len(layers), point, o.Token)
	}
	if len(o.Protect) > 0 {
		protected, missing, err := protect.Tree(tree, o.Protect)
		if err != nil {
			return "", nil, err
		}
		defer unix.Close(protected)
		tree = protected
		if len(missing) > 0 {
			note = strings.TrimPrefix(note+"; ", "; ") + fmt.Sprintf("not protected, because they are missing or links: %s", strings.Join(missing, ", "))
		}
	}
	if err := unix.MoveMount(tree, "", d.fd, o.Token, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return "", nil, fmt.Errorf("mounting %s: %w", point, err)
	}
	if len(o.Protect) == 0 {
		return note, o.Groups, protect.Forget(o.VMKey, o.Token)
	}
	ms, err = mountinfo.Read(mountinfo.Self)
	if err != nil {
		return "", nil, err
	}
	made := mountinfo.At(ms, point)
	if len(made) != 1 {
		return "", nil, ui.Failed("%s is mounted %d times instead of once", point, len(made))
	}
	return note, o.Groups, protect.Enforce(o, made[0], exports[0])
}

// notTokenMount is the error for a mount on a token that bind did not make.
func notTokenMount(point, token string) error {
	return ui.Refused("the mount on %s is not aivm's", point).
		Hint(ui.CmdFor("to see it", "grep -F "+token+" /proc/self/mountinfo"))
}

// stacked is the error for n mounts on one mount point; of selects its lines in
// the mount table.
func stacked(n int, point, of string) error {
	return ui.Refused("%d mounts lie on top of each other on %s", n, point).
		Hint(ui.CmdFor("to see them", "grep -F "+of+" /proc/self/mountinfo"))
}

// openFolder opens a host folder without following any link: a guest with write
// access to the parent could have put one there.
func openFolder(path string) (int, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	switch {
	case err == nil:
		return fd, nil
	case errors.Is(err, unix.ELOOP):
		return -1, ui.Refused("path %s goes through a symbolic link", path).Hint(ui.Remark("to share the folder that the link leads to, attach that folder by its own path"))
	case errors.Is(err, unix.ENOTDIR):
		return -1, ui.Refused("%s is not a folder", path)
	case errors.Is(err, unix.ENOENT):
		return -1, ui.Refused("folder %s does not exist any more", path)
	}
	return -1, fmt.Errorf("opening folder %s: %w", path, err)
}

// shareTree clones the folder's mount and sets the clone's attributes and owner map.
// mapped is false where the file system cannot map owners; note then says so.
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
		// Out of the peer group of the folder's own mount: a mount made below the
		// folder later must not appear in the guest.
		Propagation: unix.MS_PRIVATE,
	}
	if o.RO {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if err = unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		if errors.Is(err, unix.ENOSYS) {
			err = ui.Refused("this kernel is too old to share folders safely: Linux 5.12 or later is needed")
		}
		return -1, false, "", fmt.Errorf("restricting the mount of %s: %w", o.Src, err)
	}
	ns, err := ownerNamespace(o)
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
	// EINVAL: the file system cannot map owners. EPERM: the folder's mount already
	// has a map, which the clone keeps.
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EPERM):
		return tree, false, fmt.Sprintf("the file system of %s cannot map owners: files made by root in the guest belong to root on this machine", o.Src), nil
	}
	return -1, false, "", fmt.Errorf("mapping the owner of %s: %w", o.Src, err)
}

// isTokenMount reports whether bind may have made m: it is directly on the export
// and has the flags that every token has.
func isTokenMount(m, export mountinfo.Mount) bool {
	return m.Parent == export.ID && m.Has("nosuid") && m.Has("nodev")
}

// sameTree reports whether the mount on the token equals the new tree. It also
// compares the owner seen through the map: a folder whose owner changed needs a
// new map.
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

// unbind unmounts a token and removes its directory.
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
		if len(exports) != 1 || !isTokenMount(layers[0], exports[0]) {
			return notTokenMount(point, o.Token)
		}
		if err := protect.UnmountCopies(layers[0], exports[0]); err != nil {
			return err
		}
		if err := mount.UnmountSoon(layers[0]); err != nil {
			return err
		}
	default:
		return stacked(len(layers), point, o.Token)
	}
	if err := d.removeToken(o.Token); err != nil {
		return fmt.Errorf("removing %s: %w", point, err)
	}
	return protect.Forget(o.VMKey, o.Token)
}
