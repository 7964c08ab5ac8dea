package rootfile

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/ui"
)

// Modes of directories: one that all can pass through, and one that is root's
// alone, as an export root is. Below that the owners of every shared folder are
// mapped to uid 1000, so whoever on the host happens to be uid 1000 would own
// them if he could walk in.
const (
	PassMode = 0o711
	OwnMode  = 0o700
)

// StepInto opens the directory name in dir. With create it is made if missing,
// and one that others could write, or that is wider than wanted, is put right.
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
	// 0022 on any of them would let somebody put a directory in the way; one that
	// is root's alone must be exactly that (see OwnMode), and one that can only
	// be passed through must not be listed or locked by others.
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

// StepDown opens a directory below stateDir with O_PATH; what is missing on the
// way is made.
func StepDown(path string, mode uint32) (int, error) { return StepDownIf(path, mode, true) }

// StepDownIf is StepDown, which only opens unless create is set. Directories on
// the way can be passed through by all.
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
