package root

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/ui"
)

// rootLocks holds the files that root's part of aivm locks. The directory is
// root's alone: whoever can open a file can lock it, for as long as he likes.
const rootLocks = "/var/lib/aivm/lock"

// lockLimit is how long to wait for another aivm. What is done under a lock
// takes a fraction of a second; a daemon that is told of its hooks may take
// tellLimit. A hook waits for less, and in all its locks together: libvirt holds
// its own locks meanwhile.
var (
	lockLimit     = tellLimit + 15*time.Second
	hookLockLimit = 10 * time.Second
	lockTry       = 10 * time.Millisecond
	hookRuns      bool // this process is a hook
)

// errLocked is in the error of whoever could not get a lock within the limit.
var errLocked = errors.New("another process of root's has held")

// lockRoot takes the lock of that name, made if it is not there. Who cannot get
// it within the limit gets errLocked, so a network or VM does not start then.
func lockRoot(name string) (release func(), err error) {
	dir, err := stepDown(rootLocks, rootMode)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	path := filepath.Join(rootLocks, name)
	fd, err := unix.Openat(dir, name, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	began := time.Now()
	if hookRuns {
		defer func() { lockLimit -= time.Since(began) }()
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
		if waited := time.Since(began); waited > lockLimit {
			unix.Close(fd)
			return nil, ui.Failed("%w %s for %.0f s", errLocked, path, waited.Seconds()).
				Hint("see which, and end it if it is stuck: sudo lslocks --output PID,COMMAND,PATH")
		}
		time.Sleep(lockTry)
	}
}

// stepDown opens a directory below stateDir with O_PATH; what is missing on the
// way is made.
func stepDown(path string, mode uint32) (int, error) { return stepDownIf(path, mode, true) }

// stepDownIf is stepDown, which only opens unless create is set. Directories on
// the way can be passed through by all.
func stepDownIf(path string, mode uint32, create bool) (int, error) {
	fd, err := unix.Open(stateDir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("opening %s: %w", stateDir, err)
	}
	parts := strings.Split(strings.TrimPrefix(path, stateDir+"/"), "/")
	for i, name := range parts {
		m := mode
		if i < len(parts)-1 {
			m = baseMode
		}
		next, err := stepInto(fd, name, m, create)
		unix.Close(fd)
		if err != nil {
			return -1, fmt.Errorf("opening %s (%s): %w", path, name, err)
		}
		fd = next
	}
	return fd, nil
}
