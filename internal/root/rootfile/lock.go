package rootfile

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/ui"
)

// LockDir holds the files that root's part of aivm locks. The directory is
// root's alone: whoever can open a file can lock it, for as long as he likes.
const LockDir = "/var/lib/aivm/lock"

// lockLimit is how long to wait for another aivm. What is done under a lock
// takes a fraction of a second; a daemon that is told of its hooks may take 30
// seconds. A hook waits for less, and for all its locks together (LimitWaits):
// libvirt holds its own locks meanwhile.
const (
	lockLimit = 45 * time.Second
	lockTry   = 10 * time.Millisecond
)

// patience is how long this process waits for a lock, or, if it is to wait for
// all its locks together, for those that are still to come.
var patience = struct {
	left  time.Duration
	inAll bool
}{left: lockLimit}

// LimitWaits has this process wait for all its locks together no longer than
// limit, as a hook must.
func LimitWaits(limit time.Duration) { patience.left, patience.inAll = limit, true }

// ErrLocked is in the error of whoever could not get a lock within the limit.
var ErrLocked = errors.New("another process of root's has held")

// Lock takes the lock of that name, made if it is not there. Who cannot get
// it within the limit gets ErrLocked, so a network or VM does not start then.
func Lock(name string) (release func(), err error) {
	dir, err := StepDown(LockDir, OwnMode)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	path := filepath.Join(LockDir, name)
	fd, err := unix.Openat(dir, name, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	began := time.Now()
	limit := patience.left
	if patience.inAll {
		defer func() { patience.left -= time.Since(began) }()
	}
	for {
		err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { unix.Close(fd) }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			unix.Close(fd)
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
		if waited := time.Since(began); waited > limit {
			unix.Close(fd)
			return nil, ui.Failed("%w %s for %.0f s", ErrLocked, path, waited.Seconds()).
				Hint(ui.CmdFor("see which, and end it if it is stuck", "sudo lslocks --output PID,COMMAND,PATH"))
		}
		time.Sleep(lockTry)
	}
}
