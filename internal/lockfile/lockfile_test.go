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

// Of many who want a lock one has it, although each that had it removes the
// file, as a run does that deletes what the lock was for.
func TestOneHolderWhoeverRemovesTheFile(t *testing.T) {
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
		t.Errorf("%d held it at once, in %d turns", worst.Load(), turns.Load())
	}
}

// A file that is replaced between opening and locking it is no lock: the moment
// is made here.
func TestALockNobodyFindsIsNone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "l")
	l := flock.New(path)
	if ok, err := l.TryLock(); err != nil || !ok {
		t.Fatal(ok, err)
	}
	defer l.Close()
	for _, there := range []bool{true, false} {
		_ = os.Remove(path)
		if there {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if mine, err := found(l, path); mine || err != nil {
			t.Errorf("%v: %v %v", there, mine, err)
		}
	}
}

func TestWhoWaitsSaysForWhom(t *testing.T) {
	path := filepath.Join(t.TempDir(), "l")
	release, waited, err := Lock(t.Context(), path, "aivm code . \x1b[2J", nil)
	if err != nil || waited {
		t.Fatal(waited, err)
	}
	if !Held(path) || Held(path+"-other") {
		t.Error("whether it is held is not seen")
	}
	if _, err := os.Stat(path + "-other"); err == nil {
		t.Error("looking made a file")
	}
	heard, over := make(chan string, 1), make(chan error, 1)
	wait := func(holder string) func(error) {
		heard <- holder
		return func(err error) { over <- err }
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, _, err := Lock(ctx, path, "two", wait)
		done <- err
	}()
	if h := <-heard; !strings.Contains(h, "aivm (process ") || !strings.Contains(h, ": aivm code . ") || strings.Contains(h, "\x1b") {
		t.Errorf("it waits for %q", h)
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
			err = errors.New("it did not wait")
		}
		if err == nil {
			r()
		}
		done <- err
	}()
	<-heard
	release()
	if err := errors.Join(<-done, <-over); err != nil {
		t.Error(err)
	}
	if Held(path) {
		t.Error("it is held by nobody")
	}
	if b, err := os.ReadFile(path); err != nil || len(b) > 0 {
		t.Errorf("nobody holds it, and %q: %v", b, err)
	}
}

// Who has the lock and has not said yet who he is, is not taken for the run that
// was killed before; and who lets go by then is not waited for aloud.
func TestWhoHasJustTakenItIsNamed(t *testing.T) {
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	stale := fmt.Sprintf("(process %d: aivm code . of before)\n", gone.Process.Pid)
	for what, c := range map[string]struct{ left, then, want string }{
		"what a killed run left": {stale, fmt.Sprintf("(process %d: aivm vm up)\n", os.Getpid()), "aivm vm up"},
		"nothing yet":            {"", fmt.Sprintf("(process %d: aivm vm up)\n", os.Getpid()), "aivm vm up"},
		"and he lets go":         {"", "", ""},
		"killed, and he lets go": {stale, "", ""},
	} {
		path := filepath.Join(t.TempDir(), "l")
		if err := os.WriteFile(path, []byte(c.left), 0o600); err != nil {
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
		heard := ""
		release, waited, err := Lock(t.Context(), path, "me", func(holder string) func(error) {
			heard = holder
			return func(error) {}
		})
		if err != nil || !waited {
			t.Fatal(what, waited, err)
		}
		release()
		if (c.want == "") != (heard == "") || !strings.Contains(heard, c.want) {
			t.Errorf("%s: it waits for %q", what, heard)
		}
	}
}
