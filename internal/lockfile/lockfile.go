// Package lockfile keeps runs of aivm apart by flocks on files, and tells a run
// that waits which run holds the lock.
//
// It owns the lock files it is given and their content: one line that names the
// holder's process and command. Invariants: only one run at a time holds a lock,
// even if the holder removes the file; the file of a killed run locks nothing.
package lockfile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/ui"
)

// retryInterval is the time between two attempts to take a lock.
const retryInterval = 100 * time.Millisecond

// Lock takes the lock at path, and waits while another run holds it. who describes
// this run to the runs that wait for it. waiting is called at most once, with the
// holder's description, when this run has to wait; the function it returns is
// called when the wait ends. waited reports that another run held the lock:
// everything that was observed before may have changed.
func Lock(ctx context.Context, path, who string, waiting func(holder string) (over func(error))) (release func(), waited bool, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, false, err
	}
	over := func(error) {}
	defer func() { over(err) }()
	for {
		l := flock.New(path, flock.SetPermissions(0o600))
		ok, err := l.TryLock()
		if err == nil && !ok {
			first := !waited
			waited = true
			if first && waiting != nil {
				var who string
				if who, ok, err = holder(ctx, l, path); err == nil && !ok {
					over = waiting(who)
				}
			}
			if err == nil && !ok {
				ok, err = l.TryLockContext(ctx, retryInterval)
			}
		}
		if err != nil || !ok {
			_ = l.Close()
			return nil, waited, err
		}
		current, err := isFileAt(l, path)
		if err != nil {
			_ = l.Close()
			return nil, waited, err
		}
		if !current {
			// The previous holder removed the file, together with the object that
			// the lock protects. Other runs cannot find the file that is locked
			// here, so the lock excludes nobody.
			_ = l.Close()
			waited = true
			continue
		}
		_ = os.WriteFile(path, fmt.Appendf(nil, "(process %d: %s)\n", os.Getpid(), who), 0o600)
		return func() {
			if current, err := isFileAt(l, path); err == nil && current {
				_ = os.Truncate(path, 0)
			}
			_ = l.Unlock()
		}, waited, nil
	}
}

// Held reports whether a run holds the lock at path. It creates no file.
func Held(path string) bool {
	l := flock.New(path, flock.SetFlag(os.O_RDONLY))
	ok, err := l.TryLock()
	if ok {
		_ = l.Unlock()
	}
	return err == nil && !ok
}

// isFileAt reports whether the file at path is the one that l locks.
func isFileAt(l *flock.Flock, path string) (bool, error) {
	locked, err := l.Stat()
	if err != nil {
		return false, err
	}
	atPath, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(locked, atPath), err
}

// holderReads is how often holder reads the file, 10 ms apart.
const holderReads = 50

// holder describes the run that holds the lock. If that run releases it in the
// meantime, holder takes the lock and ok is true. A run that has just taken the
// lock may not have written its line yet: then the file is empty, or has the line
// of a run that was killed. So holder reads until it finds a process that exists.
func holder(ctx context.Context, l *flock.Flock, path string) (who string, ok bool, err error) {
	line := ""
	for range holderReads {
		if b, err := os.ReadFile(path); err == nil {
			line = ui.CleanTo(strings.TrimSpace(string(b)), 120)
		}
		var pid int
		if _, err := fmt.Sscanf(line, "(process %d:", &pid); err == nil && pid > 0 && !errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			return "aivm " + line, false, nil
		}
		select {
		case <-ctx.Done():
			return "", false, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
		if ok, err := l.TryLock(); ok || err != nil {
			return "", ok, err
		}
	}
	if line == "" {
		return "another aivm", false, nil
	}
	return "aivm " + line, false, nil // for example of another PID namespace
}
