// Package lockfile keeps two runs of aivm out of each other's way, and lets the
// one that waits say for whom.
//
// It owns the lock files it is given and what stands in them: one line about
// who holds the lock. Invariants: of several runs one holds a lock, also if the
// file is removed by who holds it; what a killed run leaves is no lock.
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

// every is how often who waits tries again.
const every = 100 * time.Millisecond

// Lock takes the lock at path. who is what others are told who wait for it.
// waiting is told, once, for whom this run waits, and told returns what is to
// be done when that is over. waited says that somebody else held it: whatever
// was looked at before may have changed.
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
				ok, err = l.TryLockContext(ctx, every)
			}
		}
		if err != nil || !ok {
			_ = l.Close()
			return nil, waited, err
		}
		mine, err := found(l, path)
		if err != nil {
			_ = l.Close()
			return nil, waited, err
		}
		if !mine {
			// Who held it removed the file with what it was for. A lock on a
			// file nobody else finds is none.
			_ = l.Close()
			waited = true
			continue
		}
		_ = os.WriteFile(path, fmt.Appendf(nil, "(process %d: %s)\n", os.Getpid(), who), 0o600)
		return func() {
			if mine, err := found(l, path); err == nil && mine {
				_ = os.Truncate(path, 0)
			}
			_ = l.Unlock()
		}, waited, nil
	}
}

// Held reports whether somebody holds the lock at path. It makes no file.
func Held(path string) bool {
	l := flock.New(path, flock.SetFlag(os.O_RDONLY))
	ok, err := l.TryLock()
	if ok {
		_ = l.Unlock()
	}
	return err == nil && !ok
}

// found reports whether the file at path is the one that is locked.
func found(l *flock.Flock, path string) (bool, error) {
	mine, err := l.Stat()
	if err != nil {
		return false, err
	}
	there, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(mine, there), err
}

// learn is how often who waits looks, 10 ms apart, for who has the lock.
const learn = 50

// holder is who holds a lock, in words; or, if that one has let go meanwhile,
// the lock is taken. Who has just taken it may not have written yet who he is:
// then nothing stands there, or what a run left that was killed.
func holder(ctx context.Context, l *flock.Flock, path string) (who string, ok bool, err error) {
	line := ""
	for range learn {
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
	return "aivm " + line, false, nil // of another process namespace, say
}
