// Package confine takes rights away from the network process of a one-shot VM: no files
// (Landlock, where the kernel has it), and only the system calls of a program that
// copies between sockets (seccomp, always).
//
// Both are inherited and cannot be undone.
package confine

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// landlockCreate asks for the ABI version of Landlock in landlock_create_ruleset.
const landlockCreate = 1

// FilesThread takes all file access from the calling thread and the processes it
// starts; program can still be executed, with the dynamic loader and libraries it needs.
// The caller has locked its goroutine to the thread and never unlocks it. It returns the
// kernel's Landlock version, 0 where it has none (then nothing was done).
func FilesThread(program string) (int, error) {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, landlockCreate)
	if errno != 0 {
		if errno == unix.ENOSYS || errno == unix.EOPNOTSUPP {
			return 0, nil
		}
		return 0, fmt.Errorf("asking for Landlock: %w", errno)
	}
	attr := unix.LandlockRulesetAttr{Handled_access_fs: handledFiles(int(abi))}
	size := unsafe.Sizeof(attr.Handled_access_fs)
	if abi >= 4 {
		attr.Handled_access_net = unix.LANDLOCK_ACCESS_NET_BIND_TCP
		size += unsafe.Sizeof(attr.Handled_access_net)
	}
	if abi >= 6 {
		attr.Scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
		size += unsafe.Sizeof(attr.Scoped)
	}
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), size, 0)
	if errno != 0 {
		return 0, fmt.Errorf("making a Landlock rule set: %w", errno)
	}
	defer unix.Close(int(fd))
	files, dirs := needed(program)
	for _, p := range files {
		if err := allow(int(fd), p, unix.LANDLOCK_ACCESS_FS_EXECUTE|unix.LANDLOCK_ACCESS_FS_READ_FILE); err != nil {
			return 0, err
		}
	}
	for _, p := range dirs {
		err := allow(int(fd), p, unix.LANDLOCK_ACCESS_FS_EXECUTE|unix.LANDLOCK_ACCESS_FS_READ_FILE|unix.LANDLOCK_ACCESS_FS_READ_DIR)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return 0, err
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return 0, fmt.Errorf("setting no_new_privs: %w", err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); errno != 0 {
		return 0, fmt.Errorf("applying the Landlock rule set: %w", errno)
	}
	return int(abi), nil
}

// handledFiles returns every kind of file access the Landlock version can refuse.
func handledFiles(abi int) uint64 {
	bits := 13 // the rights of version 1
	switch {
	case abi >= 5:
		bits = 16
	case abi >= 3:
		bits = 15
	case abi == 2:
		bits = 14
	}
	return 1<<bits - 1
}

// needed returns the files and directories that executing program takes: itself and, if
// it is linked dynamically, the loader and the system's libraries.
func needed(program string) (files, dirs []string) {
	files = []string{program}
	f, err := elf.Open(program)
	if err != nil {
		return files, nil // executing it fails and says why
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			dirs = []string{"/lib", "/lib64", "/usr/lib", "/usr/lib64"}
			if _, err := os.Stat("/etc/ld.so.cache"); err == nil {
				files = append(files, "/etc/ld.so.cache")
			}
		}
	}
	return files, dirs
}

func allow(ruleset int, path string, access uint64) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	rule := unix.LandlockPathBeneathAttr{Allowed_access: access, Parent_fd: int32(fd)}
	_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("allowing %s: %w", path, errno)
	}
	return nil
}
