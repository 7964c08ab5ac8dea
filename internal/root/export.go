package root

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/mountinfo"
	"aivm.dev/aivm/internal/ui"
)

// Modes of what export makes. The export root is root's alone: below it the
// owners of every shared folder are mapped to uid 1000, so whoever on the host
// happens to be uid 1000 would own them if he could walk in.
const (
	baseMode = 0o711
	rootMode = 0o700
	// A token nothing is bound to is told by its mode in the guest, too.
	tokenMode = 0
)

// stateDir holds ExportBase; only what is below it is ours to make.
const stateDir = "/var/lib"

// ResolvedExport is ExportRoot as the mount table names it: /var or /var/lib
// may be links on the administrator's machine.
func ResolvedExport(vmKey string) (string, error) {
	real, err := filepath.EvalSymlinks(stateDir)
	if err != nil {
		return "", err
	}
	rel, err := filepath.Rel(stateDir, ExportRoot(vmKey))
	if err != nil {
		return "", err
	}
	return filepath.Join(real, rel), nil
}

// exportDir is an open export root, with everybody else who changes mounts
// below ExportBase held off until close.
type exportDir struct {
	fd      int    // O_PATH
	path    string // as in the mount table
	release func()
}

func (d *exportDir) close() {
	unix.Close(d.fd)
	d.release()
}

// openExport opens the export root. With create it makes what is missing; else
// a missing one is fs.ErrNotExist.
func openExport(vmKey string, create bool) (*exportDir, error) {
	path, err := ResolvedExport(vmKey)
	if err != nil {
		return nil, err
	}
	fd, err := stepDownIf(ExportBase, baseMode, create)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	release, err := lockRoot("export")
	if err != nil {
		return nil, err
	}
	dirFD, err := stepInto(fd, vmKey, rootMode, create)
	if err != nil {
		release()
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	return &exportDir{fd: dirFD, path: path, release: release}, nil
}

// stepInto opens the directory name in dir. With create it is made if missing,
// and one that others could write, or that is wider than wanted, is put right.
func stepInto(dir int, name string, mode uint32, create bool) (int, error) {
	if create {
		if err := unix.Mkdirat(dir, name, mode); err != nil && !errors.Is(err, unix.EEXIST) {
			return -1, err
		}
	}
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return -1, err
	}
	if st.Uid != 0 {
		unix.Close(fd)
		return -1, ui.Refused("directory %q below %s belongs to uid %d, not to root", name, stateDir, st.Uid)
	}
	// 0022 on any of them would let somebody put a directory in the way; one that
	// is root's alone must be exactly that (see rootMode), and one that can only
	// be passed through must not be listed or locked by others.
	if create && (st.Mode&0o022 != 0 || mode == rootMode && st.Mode&0o7777 != rootMode || mode == baseMode && st.Mode&0o066 != 0) {
		if err := unix.Fchmodat(dir, name, mode, 0); err != nil {
			unix.Close(fd)
			return -1, err
		}
	}
	return fd, nil
}

// export makes the root of a VM's shares a shared mount of its own. The mount
// is a detached clone made private, then shared, and only then put in place:
// a plain "mount --bind" would join the peer group of / where systemd shares
// it, and every token would then be mounted twice.
func export(o Export) error {
	d, err := openExport(o.VMKey, true)
	if err != nil {
		return err
	}
	defer d.close()
	ms, err := mountinfo.Read(mountinfo.Self)
	if err != nil {
		return err
	}
	switch layers := mountinfo.At(ms, d.path); len(layers) {
	case 0:
	case 1:
		if _, ok := layers[0].Shared(); ok && layers[0].Has("ro") {
			return nil
		}
		if err := unix.MountSetattr(unix.AT_FDCWD, d.path, 0, &unix.MountAttr{Attr_set: exportFlags, Propagation: unix.MS_SHARED}); err != nil {
			return fmt.Errorf("making %s shared: %w", d.path, err)
		}
		return nil
	default:
		return ui.Refused("%d mounts lie on top of each other on %s", len(layers), d.path).
			Hint("look at them: grep " + d.path + " /proc/self/mountinfo")
	}
	tree, err := cloneTree(d.fd)
	if err != nil {
		return fmt.Errorf("cloning %s: %w", d.path, err)
	}
	defer unix.Close(tree)
	for _, p := range []uint64{unix.MS_PRIVATE, unix.MS_SHARED} {
		if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: exportFlags, Propagation: p}); err != nil {
			return fmt.Errorf("making %s shared: %w", d.path, err)
		}
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, d.path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mounting %s: %w", d.path, err)
	}
	return nil
}

// unexport takes the export root away. It refuses while a token is there.
func unexport(o Unexport) error {
	d, err := openExport(o.VMKey, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.close()
	ms, err := mountinfo.Read(mountinfo.Self)
	if err != nil {
		return err
	}
	var tokens []string
	for _, m := range mountinfo.Below(ms, d.path) {
		tokens = append(tokens, filepath.Base(m.Point))
	}
	if len(tokens) > 0 {
		sort.Strings(tokens)
		return ui.Refused("folders are still shared below %s: %s", d.path, strings.Join(tokens, ", ")).
			Hint("they go with the VM: aivm vm delete NAME")
	}
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		// What a run killed before its mount left; rmdir takes empty directories only.
		if err := d.removeToken(e.Name()); err != nil {
			return ui.Refused("%s is not empty: %s: %w", d.path, e.Name(), err)
		}
	}
	layers := mountinfo.At(ms, d.path)
	if len(layers) > 1 {
		return ui.Refused("%d mounts lie on top of each other on %s", len(layers), d.path)
	}
	if len(layers) == 1 {
		// Our own descriptor would keep the mount busy.
		unix.Close(d.fd)
		d.fd = -1
		if err := unmount(layers[0]); err != nil {
			return err
		}
	}
	if err := os.Remove(d.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// unmount takes one mount away, never lazily: a lazy umount is no revocation,
// whoever holds a directory open goes on reading.
func unmount(m mountinfo.Mount) error {
	err := unix.Unmount(m.Point, unix.UMOUNT_NOFOLLOW)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EBUSY):
		return ui.Failed("%s %w: %s", m.Point, ErrInUse, strings.Join(holders(m), ", ")).
			Hint("stop what uses it in the VM, or stop the VM: aivm vm down NAME")
	}
	return fmt.Errorf("umount %s: %w", m.Point, err)
}

// exportFlags keep the guest's root from writing into the export root itself,
// which is this machine's disk.
const exportFlags = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC

// writable returns the export root's directory through a clone of its own that
// can be written, which nobody else can reach.
func (d *exportDir) writable() (int, error) {
	fd, err := cloneTree(d.fd)
	if err != nil {
		return -1, err
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// makeToken makes the directory a folder is going to be mounted on.
func (d *exportDir) makeToken(token string) error {
	fd, err := d.writable()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// One may be left by a run that was killed, or with another mode by an
	// older aivm.
	if err := unix.Unlinkat(fd, token, unix.AT_REMOVEDIR); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return unix.Mkdirat(fd, token, tokenMode)
}

// removeToken removes it again; it may be gone.
func (d *exportDir) removeToken(token string) error {
	fd, err := d.writable()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Unlinkat(fd, token, unix.AT_REMOVEDIR); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

// cloneTree clones the one mount dir lies on, beginning at dir.
//
// Not recursively: what was looked at and approved is one folder on one file
// system. Mounts below it (a disk, another user's FUSE, an export of ours)
// were not, may not be able to map owners, and would come along unseen. They
// appear as the directories they cover.
func cloneTree(dir int) (int, error) {
	return unix.OpenTree(dir, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
}
