package rootfile

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/ui"
)

// LockDir is the directory of the lock files of the helper and the hooks. Only root
// can enter it: a user who can open a file can lock it indefinitely.
const LockDir = "/var/lib/aivm/lock"

// lockLimit is how long to wait for another aivm. Work under a lock takes a fraction
// of a second; a daemon may take 30 seconds until it has loaded its hooks. A hook
// waits for a shorter time, for all its locks together (LimitWaits): libvirt waits for
// the hook with its own locks held.
const (
	lockLimit = 45 * time.Second
	lockTry   = 10 * time.Millisecond
)

// lockWait is how long this process waits for each lock, or, with total, for all
// locks that it has not taken yet.
var lockWait = struct {
	remaining time.Duration
	total     bool
}{remaining: lockLimit}

// LimitWaits makes limit the longest time that this process waits for all its locks
// together, as a hook must.
func LimitWaits(limit time.Duration) { lockWait.remaining, lockWait.total = limit, true }

// ErrLocked is in the error for a lock that could not be taken within the limit.
var ErrLocked = errors.New("another root process has held")

// Lock takes the lock of that name, and makes its file if it is missing. It returns
// ErrLocked if it cannot take the lock within the limit; the network or VM then does
// not start.
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
	limit := lockWait.remaining
	if lockWait.total {
		defer func() { lockWait.remaining -= time.Since(began) }()
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
				Hint(ui.CmdFor("to see which process; end it if it is stuck", "sudo lslocks --output PID,COMMAND,PATH"))
		}
		time.Sleep(lockTry)
	}
}
