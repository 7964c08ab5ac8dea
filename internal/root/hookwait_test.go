package root

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
)

// keepLock takes a lock as another process of root's would.
func keepLock(t *testing.T, name string) *os.File {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(rootLocks, name), os.O_RDWR|os.O_CREATE, 0o600)
	must(t, err)
	must(t, unix.Flock(int(f.Fd()), unix.LOCK_EX))
	return f
}

// A hook waits once for a lock, not once for each folder, and a VM whose
// folders cannot be put back for it does not start without them.
func TestHookWaitsOnceForALock(t *testing.T) {
	work, ok := privately(t)
	if !ok {
		return
	}
	stage(t, work, unix.MS_PRIVATE)
	do(t, Export{VMKey: testKey})
	exp := ExportRoot(testKey)
	for _, n := range []string{"a", "b", "c"} {
		do(t, bindOf(t, folder(t, filepath.Join(work, "w", n), owner, 0o755), n))
		must(t, unix.Unmount(filepath.Join(exp, n), 0))
	}
	hook := func(op string) (string, time.Duration, error) {
		began := time.Now()
		c := exec.Command("/proc/self/exe", HookCommand, "qemu", "a", op, "begin", "-")
		c.Stdin = strings.NewReader(`<domain><name>a</name>` + ourMark + `</domain>`)
		out, err := c.CombinedOutput()
		return string(out), time.Since(began), err
	}
	const limit = 2 * time.Second // TestMain
	lock := keepLock(t, "export")
	out, took, err := hook("prepare")
	if err == nil || !strings.Contains(out, "has held "+lock.Name()) {
		t.Errorf("the VM would start without its folders: %v %s", err, out)
	}
	if took > limit+limit/2 {
		t.Errorf("the hook waited for %v", took)
	}
	lock.Close()
	if out, _, err := hook("prepare"); err != nil || len(mountinfo.Below(table(t), exp)) != 3 {
		t.Errorf("the lock is free: %v %s", err, out)
	}

	// A VM that runs has its folders. What is only in the way here does not end
	// it, and is not waited for longer.
	for _, n := range []string{"a", "b", "c"} {
		o := bindOf(t, filepath.Join(work, "w", n), n)
		o.Protect = []string{"Makefile"}
		must(t, os.WriteFile(filepath.Join(o.Src, "Makefile"), nil, 0o644))
		do(t, o)
	}
	lock = keepLock(t, "export")
	out, took, err = hook("started")
	if err != nil || !strings.Contains(out, "has held "+lock.Name()) || took > limit+limit/2 {
		t.Errorf("after the start: %v %v %s", err, took, out)
	}
	lock.Close()

	// What it waited for one lock it does not wait for the next.
	lockLimit, hookRuns = time.Second, true
	lock = keepLock(t, "one")
	time.AfterFunc(700*time.Millisecond, func() { lock.Close() })
	release, err := lockRoot("one")
	must(t, err)
	release()
	defer keepLock(t, "two").Close()
	began := time.Now()
	if _, err := lockRoot("two"); !errors.Is(err, errLocked) {
		t.Error(err)
	}
	if took := time.Since(began); took > 700*time.Millisecond {
		t.Errorf("the second lock was waited for %v", took)
	}
}
