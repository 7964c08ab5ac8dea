package hookrun_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/mountinfo"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/root/rootfile"
	"aivm.dev/aivm/internal/root/roottest"
)

// holdLock takes a lock as another root process would.
func holdLock(t *testing.T, name string) *os.File {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(rootfile.LockDir, name), os.O_RDWR|os.O_CREATE, 0o600)
	roottest.Must(t, err)
	roottest.Must(t, unix.Flock(int(f.Fd()), unix.LOCK_EX))
	return f
}

// A hook waits once for a lock, not once for each folder, and a VM whose folders it
// cannot mount because of the lock does not start.
func TestHookWaitsOnceForALock(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.Stage(t, work, unix.MS_PRIVATE)
	roottest.Do(t, record.Export{VMKey: roottest.Key})
	exp := rootfile.ExportRoot(roottest.Key)
	for _, n := range []string{"a", "b", "c"} {
		roottest.Do(t, roottest.BindOf(t, roottest.Folder(t, filepath.Join(work, "w", n), roottest.Owner, 0o755), n))
		roottest.Must(t, unix.Unmount(filepath.Join(exp, n), 0))
	}
	hook := func(op string) (string, time.Duration, error) {
		began := time.Now()
		c := exec.Command("/proc/self/exe", rootfile.HookCommand, "qemu", "a", op, "begin", "-")
		c.Stdin = strings.NewReader(`<domain><name>a</name>` + roottest.Mark + `</domain>`)
		out, err := c.CombinedOutput()
		return string(out), time.Since(began), err
	}
	const limit = 2 * time.Second // TestMain
	lock := holdLock(t, "export")
	out, took, err := hook("prepare")
	if err == nil || !strings.Contains(out, "has held "+lock.Name()) {
		t.Errorf("the VM would start without its folders: %v %s", err, out)
	}
	if took > limit+limit/2 {
		t.Errorf("the hook waited for %v", took)
	}
	lock.Close()
	if out, _, err := hook("prepare"); err != nil || len(mountinfo.Below(roottest.MountTable(t), exp)) != 3 {
		t.Errorf("with the lock free: %v %s", err, out)
	}

	// A running VM has its folders. If the hook cannot unmount the protecting mounts on
	// this machine, the VM runs on, and the hook does not wait longer.
	for _, n := range []string{"a", "b", "c"} {
		o := roottest.BindOf(t, filepath.Join(work, "w", n), n)
		o.Protect = []string{"Makefile"}
		roottest.Must(t, os.WriteFile(filepath.Join(o.Src, "Makefile"), nil, 0o644))
		roottest.Do(t, o)
	}
	lock = holdLock(t, "export")
	out, took, err = hook("started")
	if err != nil || !strings.Contains(out, "has held "+lock.Name()) || took > limit+limit/2 {
		t.Errorf("after the start: %v %v %s", err, took, out)
	}
	lock.Close()

	// The time it waited for one lock is subtracted from the wait for the next.
	rootfile.LimitWaits(time.Second)
	lock = holdLock(t, "one")
	time.AfterFunc(700*time.Millisecond, func() { lock.Close() })
	release, err := rootfile.Lock("one")
	roottest.Must(t, err)
	release()
	defer holdLock(t, "two").Close()
	began := time.Now()
	if _, err := rootfile.Lock("two"); !errors.Is(err, rootfile.ErrLocked) {
		t.Error(err)
	}
	if took := time.Since(began); took > 700*time.Millisecond {
		t.Errorf("it waited %v for the second lock", took)
	}
}
