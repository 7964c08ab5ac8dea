package mount

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/ui"
)

// InNamespace runs f on a separate thread in the mount namespace of process pid, if
// that is still the namespace known (as /proc/PID/ns/mnt links to it). With pid 0
// it runs f in a private copy of this process's namespace. The thread ends with f,
// and the copy with it.
func InNamespace(pid int, known string, f func() error) error {
	ns := -1
	if pid != 0 {
		var err error
		if ns, err = unix.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return fmt.Errorf("opening the mounts of process %d: %w", pid, err)
		}
		defer unix.Close(ns)
		if now, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", ns)); err != nil || now != known {
			return ui.Failed("process %d ended and another process has its number", pid).Hint(ui.Remark("run the command again"))
		}
	}
	return OnThread(func() error {
		if pid != 0 {
			// A thread that shares its working directory with other threads may not
			// change its mount namespace (setns(2)).
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return err
			}
			if err := unix.Setns(ns, unix.CLONE_NEWNS); err != nil {
				return fmt.Errorf("entering the mounts of process %d: %w", pid, err)
			}
			return f()
		}
		if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			return err
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		return f()
	})
}

// OnThread runs f on a thread that ends afterwards, and never on the process's
// first thread: that one does not end, and /proc/self shows its state.
func OnThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked, so that the thread ends with this goroutine
		if unix.Gettid() == unix.Getpid() {
			err := OnThread(f)
			runtime.UnlockOSThread()
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}
