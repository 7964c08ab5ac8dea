package jail

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	minLandlock = 2 // the first version in which a file can be renamed to another directory

	readRights  = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	writeRights = unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR |
		unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_SYM |
		unix.LANDLOCK_ACCESS_FS_REFER | unix.LANDLOCK_ACCESS_FS_TRUNCATE
	runRights = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_EXECUTE
)

// libraries are where the shared libraries of a program that was built with cgo are.
var libraries = []string{"/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache"}

// handled returns all accesses that a version of Landlock can refuse.
func handled(version int) unix.LandlockRulesetAttr {
	attr := unix.LandlockRulesetAttr{Handled_access_fs: 1<<14 - 1} // EXECUTE to REFER
	if version >= 3 {
		attr.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if version >= 4 {
		attr.Handled_access_net = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
	}
	if version >= 5 {
		attr.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	if version >= 6 {
		attr.Scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
	}
	return attr
}

// EnterLandlock restricts the calling thread to dirs and the running program. The caller then
// executes the program again: the restriction holds for all threads of the new one.
func EnterLandlock(dirs []Dir) error {
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return fmt.Errorf("the kernel has no Landlock, or it is not enabled: %w", errno)
	}
	if version < minLandlock {
		return fmt.Errorf("the kernel's Landlock has version %d; %d is needed (Linux 5.19)", version, minLandlock)
	}
	attr := handled(int(version))
	set, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return fmt.Errorf("creating a Landlock ruleset: %w", errno)
	}
	defer unix.Close(int(set))
	for _, d := range dirs {
		rights := uint64(readRights)
		if !d.ReadOnly {
			rights |= writeRights
		}
		if err := allow(int(set), d.FD, rights&attr.Handled_access_fs); err != nil {
			return fmt.Errorf("allowing %s: %w", d.Path, err)
		}
	}
	if err := allowProgram(int(set)); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("setting no_new_privs: %w", err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, set, 0, 0); errno != 0 {
		return fmt.Errorf("entering the Landlock domain: %w", errno)
	}
	return nil
}

// allowProgram allows the running program to be executed again, and to load its shared libraries if
// it has any.
func allowProgram(set int) error {
	exe, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer exe.Close()
	if err := allow(set, int(exe.Fd()), runRights); err != nil {
		return fmt.Errorf("allowing the program: %w", err)
	}
	program, err := elf.NewFile(exe)
	if err != nil {
		return fmt.Errorf("reading the program: %w", err)
	}
	for _, p := range program.Progs {
		if p.Type == elf.PT_INTERP {
			return allowLibraries(set)
		}
	}
	return nil
}

func allowLibraries(set int) error {
	for _, path := range libraries {
		fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return err
		}
		rights := uint64(runRights)
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			rights |= unix.LANDLOCK_ACCESS_FS_READ_DIR
		}
		err = allow(set, fd, rights)
		unix.Close(fd)
		if err != nil {
			return fmt.Errorf("allowing %s: %w", path, err)
		}
	}
	return nil
}

// allow adds a rule for a file or directory and what is below it.
func allow(set, fd int, rights uint64) error {
	rule := unix.LandlockPathBeneathAttr{Allowed_access: rights, Parent_fd: int32(fd)}
	_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(set), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// OpenProc returns a descriptor of /proc/self/fd and makes it the working directory, as
// EnterNamespaces does.
func OpenProc() (int, error) {
	fd, err := unix.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("opening /proc/self/fd: %w", err)
	}
	return fd, unix.Fchdir(fd)
}
