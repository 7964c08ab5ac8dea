package qemu

import (
	"os/exec"
	"os/signal"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// starter runs functions on one thread that lives as long as the process. A child's
// Pdeathsig fires when the thread that started it ends, and Go ends threads at will.
var starter = sync.OnceValue(func() chan<- func() {
	jobs := make(chan func())
	go func() {
		runtime.LockOSThread()
		for job := range jobs {
			job()
		}
	}()
	return jobs
})

// startChild starts cmd so that the kernel kills it when this process ends, by
// whatever cause.
func startChild(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig: unix.SIGKILL,
		Setpgid:   true, // Ctrl-C at the terminal is for the run's own command
	}
	// A write beyond RLIMIT_FSIZE must fail, not kill: an ignored signal stays
	// ignored in the child.
	signal.Ignore(unix.SIGXFSZ)
	result := make(chan error, 1)
	starter() <- func() { result <- cmd.Start() }
	return <-result
}

// limit sets the limits of a process that does not run a guest yet.
func limit(pid int, c *Config) error {
	limits := map[int]uint64{
		unix.RLIMIT_CORE:   0,
		unix.RLIMIT_NOFILE: 256,
		// The guest's memory, QEMU's translated code (1 GiB at most) and its threads.
		unix.RLIMIT_AS: uint64(c.MemoryMiB)<<20 + 6<<30,
	}
	if c.MaxFile > 0 {
		limits[unix.RLIMIT_FSIZE] = uint64(c.MaxFile)
	}
	for what, n := range limits {
		l := unix.Rlimit{Cur: n, Max: n}
		if err := unix.Prlimit(pid, what, &l, nil); err != nil {
			return err
		}
	}
	return nil
}
