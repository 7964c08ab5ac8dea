// Package exportroot makes the export root of a VM, mounts and unmounts folders
// below it, and mounts them again before the VM starts.
//
// It never changes a folder itself, follows no link in its path, and never unmounts
// lazily: a busy folder is an error that names the processes that hold it.
package exportroot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/mount"
	"aivm.dev/aivm/internal/root/mountinfo"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/root/rootfile"
	"aivm.dev/aivm/internal/ui"
)

// tokenMode is the mode of a token directory: the guest, too, recognises a token on
// which nothing is mounted by it.
const tokenMode = 0

// exportDir is an open export root. It holds the lock for changes of mounts below
// ExportBase until Close.
type exportDir struct {
	fd      int    // O_PATH
	path    string // as in the mount table
	release func()
}

func (d *exportDir) Close() {
	unix.Close(d.fd)
	d.release()
}

// openExport opens the export root and takes the lock. With create it makes missing
// directories; without, a missing export root is fs.ErrNotExist.
func openExport(vmKey string, create bool) (*exportDir, error) {
	path, err := rootfile.ResolvedExport(vmKey)
	if err != nil {
		return nil, err
	}
	fd, err := rootfile.StepDownIf(rootfile.ExportBase, rootfile.PassMode, create)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	release, err := rootfile.Lock("export")
	if err != nil {
		return nil, err
	}
	dirFD, err := rootfile.StepInto(fd, vmKey, rootfile.OwnMode, create)
	if err != nil {
		release()
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	return &exportDir{fd: dirFD, path: path, release: release}, nil
}

// Make makes the export root of a VM a shared mount of its own. It clones the
// directory's mount, makes the detached clone private, then shared, and attaches
// it only then: a plain "mount --bind" would join the peer group of / where systemd
// makes that shared, and every token would then be mounted twice.
func Make(o record.Export) error {
	d, err := openExport(o.VMKey, true)
	if err != nil {
		return err
	}
	defer d.Close()
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
		return stacked(len(layers), d.path, d.path)
	}
	tree, err := mount.Clone(d.fd)
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

// Remove unmounts and removes the export root. It refuses while a folder is mounted
// below it.
func Remove(o record.Unexport) error {
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
	var tokens []string
	for _, m := range mountinfo.Below(ms, d.path) {
		tokens = append(tokens, filepath.Base(m.Point))
	}
	if len(tokens) > 0 {
		sort.Strings(tokens)
		return ui.Refused("folders are still shared below %s: %s", d.path, strings.Join(tokens, ", ")).
			Hint(ui.CmdFor("to delete the VM with its shares", "aivm vm delete NAME"))
	}
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		// The directory of a run that was killed before it mounted; only an empty one
		// is removed.
		if err := d.removeToken(e.Name()); err != nil {
			return ui.Refused("%s is not empty: %s: %w", d.path, e.Name(), err)
		}
	}
	layers := mountinfo.At(ms, d.path)
	if len(layers) > 1 {
		return stacked(len(layers), d.path, d.path)
	}
	if len(layers) == 1 {
		// This process's own descriptor would keep the mount busy.
		unix.Close(d.fd)
		d.fd = -1
		if err := mount.Unmount(layers[0]); err != nil {
			return err
		}
	}
	if err := os.Remove(d.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// exportFlags keep the guest's root from writing into the export root itself, which
// is on this machine's disk.
const exportFlags = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC

// Writable returns the export root's directory through a detached, writable clone
// of its mount, which no other process can access.
func (d *exportDir) Writable() (int, error) {
	fd, err := mount.Clone(d.fd)
	if err != nil {
		return -1, err
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// makeToken makes the directory on which a folder is going to be mounted.
func (d *exportDir) makeToken(token string) error {
	fd, err := d.Writable()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// A killed run may have made one, or an older aivm one with another mode.
	if err := unix.Unlinkat(fd, token, unix.AT_REMOVEDIR); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return unix.Mkdirat(fd, token, tokenMode)
}

// removeToken removes the directory of a token, if it exists.
func (d *exportDir) removeToken(token string) error {
	fd, err := d.Writable()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Unlinkat(fd, token, unix.AT_REMOVEDIR); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}
