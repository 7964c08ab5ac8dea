package jail

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Prove tries what the jail must prevent, from the process in it, and fails if something succeeds.
func Prove(kind Kind, exports []int) error {
	for _, a := range attempts {
		if a.dir != "" && isExport(a.dir, exports) {
			continue
		}
		if err := a.try(); err == nil {
			return fmt.Errorf("the process in the jail could still %s", a.what)
		}
	}
	for i, fd := range exports {
		if err := list(fd, "."); err != nil {
			return fmt.Errorf("listing export %d in the jail: %w", i, err)
		}
		if kind != Namespaces {
			continue
		}
		if err := leave(fd); err != nil {
			return fmt.Errorf("export %d: %w", i, err)
		}
	}
	return nil
}

// attempts are operations that must fail.
var attempts = []struct {
	what string
	dir  string // is not tried if this is an export
	try  func() error
}{
	{"list the root directory of the host", "", func() error {
		fd, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if n, err := unix.Getdents(fd, make([]byte, 4096)); err != nil || n <= 2*24 { // only "." and ".."
			return unix.ENOENT
		}
		return nil
	}},
	{"read /etc/passwd", "", open("/etc/passwd", unix.O_RDONLY)},
	{"read its memory map", "", open("/proc/self/maps", unix.O_RDONLY)},
	{"create a file in /tmp", "/tmp", open("/tmp", unix.O_RDWR|unix.O_TMPFILE)},
	{"create a file in /dev/shm", "/dev/shm", open("/dev/shm", unix.O_RDWR|unix.O_TMPFILE)},
	{"create an IPv4 socket", "", socket(unix.AF_INET)},
	{"create an IPv6 socket", "", socket(unix.AF_INET6)},
	{"create a Unix socket", "", socket(unix.AF_UNIX)},
	{"create a netlink socket", "", socket(unix.AF_NETLINK)},
	{"mount a file system", "", func() error { return unix.Mount("tmpfs", "/", "tmpfs", 0, "") }},
	{"create a user namespace", "", func() error { return unix.Unshare(unix.CLONE_NEWUSER) }},
	{"change its root", "", func() error { return unix.Chroot("/") }},
	{"trace a process", "", func() error { return unix.PtraceAttach(unix.Getpid()) }},
	{"execute a program", "", func() error { return unix.Exec("/proc/self/exe", []string{"-"}, nil) }},
	{"start a process", "", func() error {
		pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
		if errno != 0 {
			return errno
		}
		if pid == 0 {
			unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
		return nil
	}},
}

// isExport reports whether the directory at path is one of exports.
func isExport(path string, exports []int) bool {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	for _, e := range exports {
		if same(fd, e) == nil {
			return true
		}
	}
	return false
}

func open(path string, flags int) func() error {
	return func() error {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o600)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
}

func socket(family int) func() error {
	return func() error {
		kind := unix.SOCK_STREAM
		if family == unix.AF_NETLINK {
			kind = unix.SOCK_RAW
		}
		fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
}

func list(dir int, name string) error {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Getdents(fd, make([]byte, 4096))
	return err
}

// leave fails if ".." leads out of an export to anything but the empty root, which nobody may search.
func leave(fd int) error {
	up, err := unix.Openat(fd, "..", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(up)
	root, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening the root: %w", err)
	}
	defer unix.Close(root)
	if same(fd, up) != nil && (same(root, up) != nil || list(root, "0") == nil) {
		return fmt.Errorf("the process in the jail could still reach the directory above it")
	}
	return nil
}
