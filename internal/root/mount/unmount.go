package mount

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/mountinfo"
	"aivm.dev/aivm/internal/ui"
)

// ErrInUse is wrapped by the error for a busy mount, which names the processes.
var ErrInUse = errors.New("is in use")

// Unmount unmounts one mount, never lazily: a lazy unmount does not revoke access,
// since a process that holds a directory open can still read it.
func Unmount(m mountinfo.Mount) error {
	err := unix.Unmount(m.Point, unix.UMOUNT_NOFOLLOW)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EBUSY):
		return ui.Failed("%s %w: %s", m.Point, ErrInUse, strings.Join(Holders(m), ", ")).
			Hint(ui.CmdFor("stop what uses it in the VM, or stop the VM", "aivm vm down NAME"))
	}
	return fmt.Errorf("umount %s: %w", m.Point, err)
}

// UnmountSoon unmounts a token that a guest has just unmounted, and retries for a
// second while it is busy: virtiofsd closes its descriptors with a delay after the
// guest's FORGET requests (measured).
func UnmountSoon(m mountinfo.Mount) error {
	for range 20 {
		switch err := unix.Unmount(m.Point, unix.UMOUNT_NOFOLLOW); {
		case err == nil:
			return nil
		case !errors.Is(err, unix.EBUSY):
			return Unmount(m)
		}
		time.Sleep(50 * time.Millisecond)
	}
	return Unmount(m)
}
