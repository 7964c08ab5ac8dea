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

// ErrInUse is a mount that somebody still holds; the error names who.
var ErrInUse = errors.New("is in use")

// Unmount takes one mount away, never lazily: a lazy umount is no revocation,
// whoever holds a directory open goes on reading.
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

// UnmountSoon is Unmount for a token a guest has just let go of: virtiofsd
// closes what the guest forgot only when it gets to it (shares.md 3).
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
