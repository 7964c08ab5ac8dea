package rootfile

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/ui"
)

// Modes of directories: PassMode lets everybody pass through, OwnMode only root, as
// for an export root. Below an export root the owner of every shared folder is mapped
// to uid 1000, so the host's user with uid 1000 would own all of them if that user
// could enter.
const (
	PassMode = 0o711
	OwnMode  = 0o700
)

// StepInto opens the directory name in dir. With create it makes a missing directory,
// and restricts the mode of one that others can write, or that is more permissive than
// mode.
func StepInto(dir int, name string, mode uint32, create bool) (int, error) {
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
	// With 0022 a user could replace a directory below it. A directory with OwnMode must
	// have exactly that mode; one with PassMode must not let others list or lock it.
	if create && (st.Mode&0o022 != 0 || mode == OwnMode && st.Mode&0o7777 != OwnMode || mode == PassMode && st.Mode&0o066 != 0) {
		if err := unix.Fchmodat(dir, name, mode, 0); err != nil {
			unix.Close(fd)
			return -1, err
		}
	}
	return fd, nil
}

// ManifestMode lets everybody read the manifests.
const ManifestMode = 0o755

// StepDown opens a directory below stateDir with O_PATH, and makes it and its parents
// if they are missing.
func StepDown(path string, mode uint32) (int, error) { return StepDownIf(path, mode, true) }

// StepDownIf opens a directory below stateDir with O_PATH. With create it makes it and
// its parents, which get PassMode, if they are missing.
func StepDownIf(path string, mode uint32, create bool) (int, error) {
	fd, err := unix.Open(stateDir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("opening %s: %w", stateDir, err)
	}
	parts := strings.Split(strings.TrimPrefix(path, stateDir+"/"), "/")
	for i, name := range parts {
		m := mode
		if i < len(parts)-1 {
			m = PassMode
		}
		next, err := StepInto(fd, name, m, create)
		unix.Close(fd)
		if err != nil {
			return -1, fmt.Errorf("opening %s (%s): %w", path, name, err)
		}
		fd = next
	}
	return fd, nil
}
