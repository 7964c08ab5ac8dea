package lockfile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gofrs/flock"
)

// Only one of many runs holds the lock, although half of the holders remove the
// file, as a run does that deletes the object the lock protects.
func TestOneHolderAlthoughTheFileIsRemoved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "locks", "vm.lock")
	var in, worst, turns atomic.Int32
	var wg sync.WaitGroup
	end := time.Now().Add(1500 * time.Millisecond)
	for n := range 8 {
		wg.Go(func() {
			for time.Now().Before(end) {
				release, _, err := Lock(t.Context(), path, "x", nil)
				if err != nil {
					t.Error(err)
					return
				}
				if now := in.Add(1); now > worst.Load() {
					worst.Store(now)
				}
				turns.Add(1)
				time.Sleep(time.Duration(n%3) * time.Millisecond)
				if n%2 == 0 {
					_ = os.Remove(path)
				}
				in.Add(-1)
				release()
			}
		})
	}
	wg.Wait()
	if worst.Load() != 1 || turns.Load() < 20 {
		t.Errorf("%d held the lock at once, in %d turns", worst.Load(), turns.Load())
	}
}

// A lock on a file that was removed or replaced between opening and locking it
// does not count. The test produces that moment.
func TestLockOnAReplacedFileDoesNotCount(t *testing.T) {
	path := filepath.Join(t.TempDir(), "l")
	l := flock.New(path)
	if ok, err := l.TryLock(); err != nil || !ok {
		t.Fatal(ok, err)
	}
	defer l.Close()
	for _, replaced := range []bool{true, false} {
		_ = os.Remove(path)
		if replaced {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if current, err := isFileAt(l, path); current || err != nil {
			t.Errorf("replaced %v: %v %v", replaced, current, err)
		}
	}
}

func TestWaitNamesTheHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "l")
	release, waited, err := Lock(t.Context(), path, "aivm code . \x1b[2J", nil)
	if err != nil || waited {
		t.Fatal(waited, err)
	}
	if !Held(path) || Held(path+"-other") {
		t.Error("Held is wrong")
	}
	if _, err := os.Stat(path + "-other"); err == nil {
		t.Error("Held created a file")
	}
	named, over := make(chan string, 1), make(chan error, 1)
	wait := func(holder string) func(error) {
		named <- holder
		return func(err error) { over <- err }
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, _, err := Lock(ctx, path, "two", wait)
		done <- err
	}()
	if h := <-named; !strings.Contains(h, "aivm (process ") || !strings.Contains(h, ": aivm code . ") || strings.Contains(h, "\x1b") {
		t.Errorf("the holder is %q", h)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := <-over; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	go func() {
		r, waited, err := Lock(t.Context(), path, "three", wait)
		if err == nil && !waited {
			err = errors.New("Lock did not wait")
		}
		if err == nil {
			r()
		}
		done <- err
	}()
	<-named
	release()
	if err := errors.Join(<-done, <-over); err != nil {
		t.Error(err)
	}
	if Held(path) {
		t.Error("Held reports a released lock")
	}
	if b, err := os.ReadFile(path); err != nil || len(b) > 0 {
		t.Errorf("the released lock file has %q: %v", b, err)
	}
}

// A holder that has not written its line yet is not mistaken for the killed run
// before it; and a wait for one that releases the lock by then is not reported.
func TestNewHolderIsNamed(t *testing.T) {
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	stale := fmt.Sprintf("(process %d: aivm code . of before)\n", gone.Process.Pid)
	for what, c := range map[string]struct{ before, then, want string }{
		"the line of a killed run":           {stale, fmt.Sprintf("(process %d: aivm vm up)\n", os.Getpid()), "aivm vm up"},
		"no line yet":                        {"", fmt.Sprintf("(process %d: aivm vm up)\n", os.Getpid()), "aivm vm up"},
		"no line, then released":             {"", "", ""},
		"line of a killed run, then release": {stale, "", ""},
	} {
		path := filepath.Join(t.TempDir(), "l")
		if err := os.WriteFile(path, []byte(c.before), 0o600); err != nil {
			t.Fatal(err)
		}
		l := flock.New(path)
		if ok, err := l.TryLock(); err != nil || !ok {
			t.Fatal(ok, err)
		}
		time.AfterFunc(150*time.Millisecond, func() {
			if c.then == "" {
				_ = l.Unlock()
				return
			}
			if err := os.WriteFile(path, []byte(c.then), 0o600); err != nil {
				t.Error(err)
			}
			time.AfterFunc(150*time.Millisecond, func() { _ = l.Unlock() })
		})
		named := ""
		release, waited, err := Lock(t.Context(), path, "me", func(holder string) func(error) {
			named = holder
			return func(error) {}
		})
		if err != nil || !waited {
			t.Fatal(what, waited, err)
		}
		release()
		if (c.want == "") != (named == "") || !strings.Contains(named, c.want) {
			t.Errorf("%s: the holder is %q", what, named)
		}
	}
}
