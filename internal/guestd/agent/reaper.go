package agent

import (
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A reaper waits for all children of the process, its own and, as process 1, those
// whose parents have ended.
type reaper struct {
	mu       sync.Mutex
	children map[int]func(unix.WaitStatus) // called for each change of state, with mu held
}

func newReaper() *reaper {
	r := &reaper{children: map[int]func(unix.WaitStatus){}}
	changes := make(chan os.Signal, 1)
	signal.Notify(changes, unix.SIGCHLD)
	go func() {
		for range changes {
			r.reap()
		}
	}()
	return r
}

func (r *reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG|unix.WUNTRACED, nil)
		if err != nil || pid <= 0 {
			return
		}
		if changed := r.children[pid]; changed != nil {
			if !status.Stopped() {
				delete(r.children, pid)
			}
			changed(status)
		}
	}
}

// start starts a program, and calls changed when it stops or ends.
func (r *reaper) start(path string, argv []string, attr *syscall.ProcAttr, changed func(unix.WaitStatus)) (pid int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err = syscall.ForkExec(path, argv, attr)
	if err == nil {
		r.children[pid] = changed
	}
	return pid, err
}

// run runs a program to its end, without input and output.
func (r *reaper) run(path string, argv []string, attr *syscall.ProcAttr) (unix.WaitStatus, error) {
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(null)
	attr.Files = []uintptr{uintptr(null), uintptr(null), uintptr(null)}
	ended := make(chan unix.WaitStatus, 1)
	_, err = r.start(path, argv, attr, func(status unix.WaitStatus) {
		if !status.Stopped() {
			ended <- status
		}
	})
	if err != nil {
		return 0, err
	}
	return <-ended, nil
}
