// Package protect keeps guests from writing protected paths of a shared folder. It
// puts read-only mounts on the paths in the mount namespace of virtiofsd, and
// records their state so that the folder's owner can check it without root.
package protect

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/mount"
	"aivm.dev/aivm/internal/root/mountinfo"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/root/rootfile"
	"aivm.dev/aivm/internal/ui"
)

// A protected path is mounted read-only on itself, on top of the folder's mount.
// Each directory in its path is also mounted on itself: a mount point cannot be
// renamed, so the guest cannot move such a directory away and put another in its
// place.
//
// These mounts belong only into the mount namespace in which virtiofsd serves the
// guest's requests. The kernel refuses to rename or remove a file that is a mount
// point anywhere in the caller's mount namespace, whatever path the caller uses:
// with these mounts in this machine's own namespace no program here could save a
// Makefile or run git config. So the tree is built with them before it is attached
// (the guest can write at no moment), and once virtiofsd has it, they are unmounted
// here. In virtiofsd's namespace they stay as long as it runs, except where the
// file is replaced on this machine: then the kernel drops the mount, the check of
// the record notices it (Protection), and the next bind mounts it again.

// A point is one mount of a protected tree: a protected path (ro), or a directory
// in the path of one.
type point struct {
	rel string
	ro  bool
}

// points returns the mounts for paths, parents first.
func points(paths []string) []point {
	ro := map[string]bool{}
	for _, p := range paths {
		for d := filepath.Dir(p); d != "."; d = filepath.Dir(d) {
			ro[d] = ro[d] || false
		}
		ro[p] = true
	}
	out := make([]point, 0, len(ro))
	for p, r := range ro {
		out = append(out, point{p, r})
	}
	// A path sorts after the directories that contain it.
	sort.Slice(out, func(i, j int) bool { return out[i].rel < out[j].rel })
	return out
}

// Tree returns a detached clone of the detached mount tree with the protecting
// mounts on it; it consumes tree. missing are paths that do not exist or go through
// a link.
func Tree(tree int, paths []string) (out int, missing []string, err error) {
	out = -1
	err = mount.InNamespace(0, "", func() error {
		// Mounts can be stacked only on an attached mount. ExportBase is a directory
		// that always exists; the namespace is private to this thread.
		if err := unix.MoveMount(tree, "", unix.AT_FDCWD, rootfile.ExportBase, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return err
		}
		for _, p := range points(paths) {
			ok, err := cover(tree, p)
			if err != nil {
				return err
			}
			if !ok {
				missing = append(missing, p.rel)
			}
		}
		var err error
		out, err = unix.OpenTree(tree, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
		return err
	})
	if err != nil {
		return -1, nil, fmt.Errorf("protecting paths: %w", err)
	}
	return out, missing, nil
}

// coverTries is how often cover and openBelow try.
const coverTries = 5

// cover mounts p on itself. ok is false where the path does not exist, or goes
// through a link, which a guest could have made. It tries again where the file was
// replaced in between.
func cover(tree int, p point) (ok bool, err error) {
	for range coverTries {
		if ok, err = coverOnce(tree, p); !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ESTALE) {
			break
		}
	}
	return ok, err
}

func coverOnce(tree int, p point) (ok bool, err error) {
	at, err := openBelow(tree, p.rel)
	switch {
	case notBelow(err):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("opening %s: %w", p.rel, err)
	}
	defer unix.Close(at)
	var st unix.Stat_t
	if err := unix.Fstat(at, &st); err != nil {
		return false, err
	}
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFREG && kind != unix.S_IFDIR {
		return false, nil
	}
	clone, err := mount.Clone(at)
	if err != nil {
		return false, fmt.Errorf("cloning %s: %w", p.rel, err)
	}
	defer unix.Close(clone)
	if p.ro {
		if err := unix.MountSetattr(clone, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
			return false, fmt.Errorf("making %s read-only: %w", p.rel, err)
		}
	}
	if err := unix.MoveMount(clone, "", at, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return false, fmt.Errorf("mounting %s on itself: %w", p.rel, err)
	}
	return true, nil
}

// servedBy reports whether c is the daemon that is to serve the folder to the guest:
// the one for only this folder if o.Own is set, else the one for all folders. The
// latter sees every token.
func servedBy(o record.Bind, c mount.Copy) bool { return c.Daemon && (!o.Own || c.Top.Point == "/") }

// EnforceServed calls Enforce if a daemon already serves the token; served is false
// where none does.
func EnforceServed(o record.Bind, t, export mountinfo.Mount) (served bool, err error) {
	all, err := mount.Copies(t, export)
	if err == nil && !slices.ContainsFunc(all, func(c mount.Copy) bool { return servedBy(o, c) }) {
		return false, nil
	}
	return true, Enforce(o, t, export) // fails with the same error and records it
}

// Enforce adds the protecting mounts in every daemon that serves the token, unmounts
// them everywhere else, and records the resulting state. If it fails for one daemon
// it still does the others, and records the failure.
func Enforce(o record.Bind, t, export mountinfo.Mount) error {
	err := enforceAll(o, t, export)
	if err != nil {
		// Replace the previous record, which may say that the protection holds.
		return errors.Join(err, writeProtection(o, failedProtection(o, t, err)))
	}
	return nil
}

func enforceAll(o record.Bind, t, export mountinfo.Mount) error {
	all, err := mount.Copies(t, export)
	if err != nil {
		return err
	}
	// Take the stamps before mounting: the check notices every file that is replaced
	// from here on. A guest can make this fail, with a directory of more files than
	// are counted; the paths are mounted nevertheless.
	stamps, stampErr := stampAll(t.Point, o.Protect)
	served := slices.ContainsFunc(all, func(c mount.Copy) bool { return servedBy(o, c) })
	var daemons []mount.Copy
	var errs []error
	late, linked := map[string]bool{}, map[string]bool{}
	for _, c := range all {
		if !c.RootVirtiofsd {
			continue
		}
		added, links, err := addMissing(c, o.Protect)
		if err != nil && alive(fmt.Sprintf("/proc/%d", c.PID)) {
			errs = append(errs, err)
		}
		for _, rel := range added {
			late[rel] = true
		}
		for _, rel := range links {
			linked[rel] = true
			delete(stamps, rel)
		}
		if c.Daemon {
			daemons = append(daemons, c)
		}
	}
	if served {
		if err := uncover(t, export); err != nil {
			errs = append(errs, err)
		}
		for _, c := range all {
			if !c.RootVirtiofsd {
				// The mount namespace of some other service.
				_ = c.In(func() error { return unmountBelow(c.Below, c.Top.Point) })
			}
		}
	} else {
		daemons = nil // no daemon has the mounts yet
	}
	if stampErr != nil {
		errs = append(errs, stampErr)
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	p, err := newProtection(o, t, daemons, stamps, late)
	if err != nil {
		return err
	}
	for _, rel := range slices.Sorted(maps.Keys(linked)) {
		p.Links = append(p.Links, rel)
		delete(p.Paths, rel)
	}
	return writeProtection(o, p)
}

// uncover unmounts the protecting mounts in this process's namespace, on the token t
// and on its other copies where /var/lib, or a directory above it, is mounted twice.
// The mounts in other namespaces stay.
func uncover(t, export mountinfo.Mount) error {
	ms, err := mountinfo.Read(mountinfo.Self)
	if err != nil {
		return err
	}
	group, _ := export.Shared()
	ms = slices.DeleteFunc(slices.Clone(ms), func(m mountinfo.Mount) bool {
		return m.ID != t.ID && !(m.Dev == t.Dev && m.Root == t.Root && mount.LiesOnCopy(ms, m, group))
	})
	for _, m := range ms {
		if err := unix.MountSetattr(unix.AT_FDCWD, m.Point, unix.AT_RECURSIVE, &unix.MountAttr{Propagation: unix.MS_PRIVATE}); err != nil {
			return fmt.Errorf("making %s private, apart from the daemon's mounts: %w", m.Point, err)
		}
	}
	now, err := mountinfo.Read(mountinfo.Self)
	if err != nil {
		return err
	}
	for _, m := range ms {
		if err := unmountBelow(mountinfo.Below(now, m.Point), m.Point); err != nil {
			return err
		}
	}
	return nil
}

// unmountBelow unmounts ms, the mounts below point, the deepest first. It unmounts
// lazily, which is safe here: these mounts only restrict access.
func unmountBelow(ms []mountinfo.Mount, point string) error {
	for _, m := range slices.Backward(ms) {
		if err := unix.Unmount(m.Point, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmounting %s below %s: %w", m.Point, point, err)
		}
	}
	return nil
}

// addMissing mounts the protecting mounts that are missing in the daemon's
// namespace. added are the paths that had no mount; links are those that cannot have
// one, since they are links or go through one. If it fails for one path, which a
// guest can cause, it still does the others.
func addMissing(c mount.Copy, paths []string) (added, links []string, err error) {
	err = c.In(func() error {
		top, err := unix.Open(c.Top.Point, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(top)
		var errs []error
		for _, p := range points(paths) {
			state, err := coverState(top, p)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			switch state {
			case pointLink:
				links = append(links, p.rel)
			case pointBare:
				ok, err := cover(top, p)
				if err != nil {
					errs = append(errs, err)
				}
				if ok {
					added = append(added, p.rel)
				}
			}
		}
		return errors.Join(errs...)
	})
	if err != nil {
		return nil, nil, ui.Failed("protecting paths in the running VM: %w", err).Hint(ui.CmdFor("stop the VM; its next start protects them", "aivm vm down NAME"))
	}
	return added, links, nil
}

// States of a path, from coverState.
const (
	pointGone    = iota
	pointLink    // a link, behind a link, or neither a file nor a directory
	pointBare    // without its protecting mount
	pointCovered // with it
)

// coverState reports whether the mount for p exists. It opens the path in the same
// way as the guest's requests do.
func coverState(top int, p point) (int, error) {
	at, err := openBelow(top, p.rel)
	switch {
	case errors.Is(err, unix.ENOENT):
		return pointGone, nil
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return pointLink, nil
	case err != nil:
		return 0, fmt.Errorf("opening %s: %w", p.rel, err)
	}
	defer unix.Close(at)
	var st unix.Statx_t
	if err := unix.Statx(at, "", unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW, unix.STATX_TYPE, &st); err != nil {
		return 0, err
	}
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFREG && kind != unix.S_IFDIR {
		return pointLink, nil
	}
	if st.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return pointBare, nil
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(at, &fs); err != nil {
		return 0, err
	}
	if p.ro && fs.Flags&unix.ST_RDONLY == 0 {
		return pointBare, nil
	}
	return pointCovered, nil
}

// UnmountCopies unmounts a protected token in every other mount namespace: a mount
// that has mounts on it is not unmounted there by propagation. It must succeed in
// the daemons' namespaces; failures in those of other services are ignored.
func UnmountCopies(t, export mountinfo.Mount) error {
	all, err := mount.Copies(t, export)
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range all {
		if len(c.Below) == 0 || c.Top.Point == "/" {
			continue // propagation unmounts it, or it ends with its daemon
		}
		err := c.In(func() error { return removeCopy(c) })
		switch {
		case err == nil, !c.RootVirtiofsd, !alive(fmt.Sprintf("/proc/%d", c.PID)):
		case errors.Is(err, unix.EBUSY):
			errs = append(errs, ui.Failed("%s %w: %s", t.Point, mount.ErrInUse, strings.Join(mount.Holders(t), ", ")).
				Hint(ui.CmdFor("stop what uses it in the VM, or stop the VM", "aivm vm down NAME")))
		default:
			errs = append(errs, fmt.Errorf("unmounting %s in process %d: %w", t.Point, c.PID, err))
		}
	}
	if len(errs) == 1 {
		return errs[0]
	}
	if len(errs) > 1 {
		return errors.Join(errs...)
	}
	return uncover(t, export)
}

// removeCopy unmounts a copy of a token with all mounts on it, in its namespace, and
// never lazily (see mount.Unmount). If one is in use, it mounts those again that it
// has already unmounted.
func removeCopy(c mount.Copy) error {
	unmounted := 0
	err := error(nil)
	for i := len(c.Below) - 1; i >= 0 && err == nil; i-- {
		if err = unmountRetry(c.Below[i].Point); err == nil {
			unmounted++
		}
	}
	if err == nil {
		if err = unmountRetry(c.Top.Point); err == nil {
			return nil
		}
	}
	top, oerr := unix.Open(c.Top.Point, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if oerr != nil {
		return errors.Join(err, oerr)
	}
	defer unix.Close(top)
	for _, m := range c.Below[len(c.Below)-unmounted:] {
		rel, rerr := filepath.Rel(c.Top.Point, m.Point)
		if rerr == nil {
			_, rerr = cover(top, point{rel, m.Has("ro")})
		}
		if rerr != nil {
			err = errors.Join(err, fmt.Errorf("protecting %s again: %w", m.Point, rerr))
		}
	}
	return err
}

// unmountRetry unmounts, and retries for a second while the mount is busy: virtiofsd
// closes files with a delay after the guest has.
func unmountRetry(point string) error {
	var err error
	for range 20 {
		if err = unix.Unmount(point, unix.UMOUNT_NOFOLLOW); !errors.Is(err, unix.EBUSY) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
	return err
}
