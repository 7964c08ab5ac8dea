package jail

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Kind is one of the two jails.
type Kind string

// The jails, the better one first.
const (
	Namespaces Kind = "namespaces"
	Landlock   Kind = "landlock"
)

// A Dir is a directory the process keeps access to.
type Dir struct {
	Path     string
	FD       int // of the directory, opened before the jail
	ReadOnly bool
}

// Process returns how to start the process for a jail.
func Process(kind Kind) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true}
	if kind == Namespaces {
		attr.Cloneflags = syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}}
		attr.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN}
	}
	return attr
}

// EnterNamespaces completes the jail of a process that was started with Process(Namespaces). It
// returns the descriptors of dirs in their private mounts, and one of /proc/self/fd, which becomes the
// working directory.
func EnterNamespaces(dirs []Dir) (exports []int, proc int, err error) {
	// Mounts that the host makes or removes later appear and disappear here too, where they are shared
	// (with systemd, everywhere): what is a mount point must be known. Nothing goes the other way.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return nil, -1, fmt.Errorf("making mounts slaves of the host's: %w", err)
	}
	for _, d := range dirs {
		fd, err := privateMount(d)
		if err != nil {
			return nil, -1, fmt.Errorf("mounting %s: %w", d.Path, err)
		}
		exports = append(exports, fd)
	}
	if proc, err = clone("/proc/self/fd"); err != nil {
		return nil, -1, fmt.Errorf("mounting /proc/self/fd: %w", err)
	}
	if err := emptyRoot(exports); err != nil {
		return nil, -1, err
	}
	return exports, proc, unix.Fchdir(proc)
}

// clone returns a private copy of the mount at a path, with the path as its root.
func clone(path string) (int, error) {
	return unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
}

// privateMount returns a mount of d, if its path still leads to the directory that was opened.
func privateMount(d Dir) (int, error) {
	fd, err := clone(d.Path)
	if err != nil {
		return -1, err
	}
	if err := same(fd, d.FD); err != nil {
		return -1, err
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC}
	if d.ReadOnly {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		return -1, err
	}
	return fd, unix.Close(d.FD)
}

func same(a, b int) error {
	var x, y unix.Stat_t
	if err := unix.Fstat(a, &x); err != nil {
		return err
	}
	if err := unix.Fstat(b, &y); err != nil {
		return err
	}
	if x.Dev != y.Dev || x.Ino != y.Ino {
		return errors.New("the directory was replaced")
	}
	return nil
}

// emptyRoot makes an empty read-only file system the root, and unmounts everything else. The exports
// are attached in it, because the kernel passes later mounts of the host on to attached mounts only, and
// refuses (EBUSY) to remove a mount point that is attached; but nobody may search the root.
func emptyRoot(exports []int) error {
	const at = "/proc" // exists everywhere, and what is mounted there is not needed by path any more
	options := fmt.Sprintf("size=4k,nr_inodes=%d,mode=700", 2+len(exports))
	if err := unix.Mount("tmpfs", at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, options); err != nil {
		return fmt.Errorf("mounting the empty root: %w", err)
	}
	if err := unix.Chdir(at); err != nil {
		return err
	}
	for i, fd := range exports {
		name := strconv.Itoa(i)
		if err := unix.Mkdir(name, 0); err != nil {
			return err
		}
		if err := unix.MoveMount(fd, "", unix.AT_FDCWD, name, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("attaching export %d: %w", i, err)
		}
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("changing the root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmounting the old root: %w", err)
	}
	if err := unix.Chmod("/", 0); err != nil {
		return fmt.Errorf("closing the root: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("making the root read-only: %w", err)
	}
	return nil
}

// DropCapabilities gives up the capabilities that EnterNamespaces needed. In a program with cgo this
// is possible for one thread only; there the filter keeps the other threads from using them.
func DropCapabilities() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&header)
	pin.Pin(&none)
	calls := [][7]uintptr{
		{unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL},
		{unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&none))},
	}
	for _, c := range calls {
		_, _, errno := syscall.AllThreadsSyscall6(c[0], c[1], c[2], c[3], c[4], c[5], c[6])
		if errno == syscall.ENOTSUP {
			_, _, errno = syscall.RawSyscall6(c[0], c[1], c[2], c[3], c[4], c[5], c[6])
		}
		if errno != 0 {
			return fmt.Errorf("dropping capabilities: %w", errno)
		}
	}
	return nil
}
