// Package protect keeps guests from writing chosen paths of a shared folder: with
// read-only mounts on them where the guest's requests are served, and with a
// record of what holds that the folder's owner can check without rights.
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

// A protected path is a read-only mount of it on itself, above the folder's
// mount; the directories on the way to it are mounts of themselves too, since
// a mount point cannot be renamed away from under what it carries, and the
// name be taken by another.
//
// These mounts belong where the guest's requests are served and nowhere else.
// The kernel refuses to rename or remove whatever is a mount point anywhere in
// the caller's mount namespace, by the file and not by the way to it: with
// them in this machine's own namespace nobody here could save a Makefile or
// run git config. So a tree is built with them before it appears (there is no
// moment in which the guest could write), and once virtiofsd has it, they are
// taken off here. In its namespace they stay for as long as it runs, except
// those whose file is replaced on this machine: the kernel drops them, the
// record says so (Protection), and the next bind puts them on again.

// A point is one mount of a protected tree.
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
	// A name sorts after the directories it lies in.
	sort.Slice(out, func(i, j int) bool { return out[i].rel < out[j].rel })
	return out
}

// Tree returns tree with the protecting mounts on it, as detached as
// tree was; tree itself is used up. missing are paths that are not there or
// lead through a link.
func Tree(tree int, paths []string) (out int, missing []string, err error) {
	out = -1
	err = mount.InNamespace(0, "", func() error {
		// Mounts can be put together only where they are attached; this is a
		// directory that is surely there, in a namespace nobody else sees.
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

// coverTries bounds how often cover begins again.
const coverTries = 5

// Cover puts the mount for p on itself. ok is false where there is no such
// path, or only through a link, which a guest could have planted. It begins
// again where the file was replaced meanwhile.
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
		return false, fmt.Errorf("covering %s: %w", p.rel, err)
	}
	return true, nil
}

// servedBy reports whether c is the daemon through which the guest is meant to
// reach the folder. The one for all folders sees every token.
func servedBy(o record.Bind, c mount.Copy) bool { return c.Daemon && (!o.Own || c.Top.Point == "/") }

// SettleServed is Settle for a token that a daemon serves already; served is
// false where none does.
func SettleServed(o record.Bind, t, export mountinfo.Mount) (served bool, err error) {
	all, err := mount.Copies(t, export)
	if err == nil && !slices.ContainsFunc(all, func(c mount.Copy) bool { return servedBy(o, c) }) {
		return false, nil
	}
	return true, Settle(o, t, export) // which fails likewise, and writes that down
}

// Settle sees to it that every daemon that serves the token has the protecting
// mounts, takes them off wherever else they are, and writes down what holds. A
// daemon for which that fails keeps none of the others from it; what is written
// down then says so.
func Settle(o record.Bind, t, export mountinfo.Mount) error {
	err := settleAll(o, t, export)
	if err != nil {
		// Never the record of before, which may say that all is well.
		return errors.Join(err, writeProtection(o, failedProtection(o, t, err)))
	}
	return nil
}

func settleAll(o record.Bind, t, export mountinfo.Mount) error {
	all, err := mount.Copies(t, export)
	if err != nil {
		return err
	}
	// From before the mounts: whatever is replaced from here on is noticed. A
	// guest can have this fail, by a directory with more files than are counted;
	// the mounts are put on all the same.
	stamps, stampErr := stampAll(t.Point, o.Protect)
	served := slices.ContainsFunc(all, func(c mount.Copy) bool { return servedBy(o, c) })
	var daemons []mount.Copy
	var errs []error
	late, linked := map[string]bool{}, map[string]bool{}
	for _, c := range all {
		if !c.Roots {
			continue
		}
		added, links, err := ensure(c, o.Protect)
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
			if !c.Roots {
				// Some other service's view of this machine.
				_ = c.In(func() error { return dropBelow(c.Below, c.Top.Point) })
			}
		}
	} else {
		daemons = nil // what is written down does not hold yet
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

// uncover takes the protecting mounts off in this process's namespace: off the
// token t, and off wherever else it appears because /var/lib, or a directory
// above, is mounted at two places. What is taken off here stays elsewhere.
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
			return fmt.Errorf("parting %s from the daemon's: %w", m.Point, err)
		}
	}
	now, err := mountinfo.Read(mountinfo.Self)
	if err != nil {
		return err
	}
	for _, m := range ms {
		if err := dropBelow(mountinfo.Below(now, m.Point), m.Point); err != nil {
			return err
		}
	}
	return nil
}

// dropBelow unmounts ms, which lie below point, the deepest first. Nobody's
// access hangs on them, so what is in use may go lazily.
func dropBelow(ms []mountinfo.Mount, point string) error {
	for _, m := range slices.Backward(ms) {
		if err := unix.Unmount(m.Point, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("taking %s off %s: %w", m.Point, point, err)
		}
	}
	return nil
}

// ensure puts on what is missing in the daemon's namespace. added are the paths
// that had no mount; links are those that cannot have one, since they are links
// or lead through one. A path for which that fails, as a guest can have it,
// keeps none of the others from it.
func ensure(c mount.Copy, paths []string) (added, links []string, err error) {
	err = c.In(func() error {
		top, err := unix.Open(c.Top.Point, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(top)
		var errs []error
		for _, p := range points(paths) {
			is, err := covered(top, p)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			switch is {
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
		return nil, nil, ui.Failed("protecting paths in the running VM: %w", err).Hint(ui.CmdFor("stop the VM, which protects them when it starts", "aivm vm down NAME"))
	}
	return added, links, nil
}

// What covered finds at a path.
const (
	pointGone = iota
	pointLink // it is, or leads through, a link; or it is no file and no directory
	pointBare
	pointCovered
)

// covered says whether the mount for p is there, by going the way the guest's
// requests go.
func covered(top int, p point) (int, error) {
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

// LetGo takes a protected token out of every other namespace, where
// it would outlive its removal here: a mount with mounts on it does not follow.
// From a daemon's it must go; from those of other services as far as they let it.
func LetGo(t, export mountinfo.Mount) error {
	all, err := mount.Copies(t, export)
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range all {
		if len(c.Below) == 0 || c.Top.Point == "/" {
			continue // it follows by itself, or goes with its daemon
		}
		err := c.In(func() error { return removeCopy(c) })
		switch {
		case err == nil, !c.Roots, !alive(fmt.Sprintf("/proc/%d", c.PID)):
		case errors.Is(err, unix.EBUSY):
			errs = append(errs, ui.Failed("%s %w: %s", t.Point, mount.ErrInUse, strings.Join(mount.Holders(t), ", ")).
				Hint(ui.CmdFor("stop what uses it in the VM, or stop the VM", "aivm vm down NAME")))
		default:
			errs = append(errs, fmt.Errorf("taking %s out of reach: %w", t.Point, err))
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

// removeCopy unmounts a copy of a token with all below it, in its namespace, and
// never lazily (see mount.Unmount). Where something is in use, what was taken off
// already is put on again.
func removeCopy(c mount.Copy) error {
	off := 0
	err := error(nil)
	for i := len(c.Below) - 1; i >= 0 && err == nil; i-- {
		if err = unmountRetry(c.Below[i].Point); err == nil {
			off++
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
	for _, m := range c.Below[len(c.Below)-off:] {
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

// unmountRetry waits a moment for what a guest has just let go of.
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
