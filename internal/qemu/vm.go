package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/capture"
	"aivm.dev/aivm/internal/ui"
)

// startLimit is how long QEMU may take to answer after its start.
const startLimit = 60 * time.Second

// VM is a running QEMU.
type VM struct {
	cmd    *exec.Cmd
	qmp    *qmp
	words  *capture.Tail // QEMU's stderr
	name   string
	slots  int
	mu     sync.Mutex
	used   int  // spare slots in use
	killed bool // by Kill
	done   chan struct{}
	err    error // set before done is closed
}

// Ended is the error of a VM whose QEMU ended by itself: Words is what QEMU wrote,
// Status its exit status.
type Ended struct{ Words, Status string }

func (e *Ended) Error() string {
	if e.Words == "" && strings.Contains(e.Status, unix.SIGBUS.String()) {
		return "QEMU ended: there was no space on the disk for the guest's memory, or its file was truncated (" + e.Status + ")"
	}
	if e.Words == "" {
		return "QEMU ended without a message: " + e.Status
	}
	return "QEMU ended: " + e.Words
}

// Start starts QEMU with the guest stopped and waits until it answers. If QEMU ends
// before that, the error is an *Ended. ctx is for the start only. Start takes over
// the sockets of c, also when it fails.
func Start(ctx context.Context, c Config) (*VM, error) {
	defer c.closeSockets()
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("starting QEMU: %w", err)
	}
	near, far, err := socketPair("qmp")
	if err != nil {
		return nil, err
	}
	conn, err := net.FileConn(near)
	_ = near.Close()
	if err != nil {
		_ = far.Close()
		return nil, err
	}
	a := c.arguments(far)
	v := &VM{words: &capture.Tail{Limit: 4096}, name: filepath.Base(a.argv[0]), slots: c.SpareSlots, done: make(chan struct{})}
	// Without ctx: a VM outlives the context of its start. Kill ends it.
	v.cmd = exec.Command(a.argv[0], a.argv[1:]...)
	v.cmd.Stderr = v.words
	v.cmd.ExtraFiles = a.files
	v.cmd.Dir = "/"
	v.cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	err = startChild(v.cmd)
	_ = far.Close() // QEMU's end is QEMU's only: its close is QEMU's end
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("starting QEMU: %w", err)
	}
	go v.wait()
	v.qmp = newQMP(conn.(*net.UnixConn))
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if err = limit(v.cmd.Process.Pid, &c); err == nil {
		err = v.qmp.greet(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("starting QEMU: %w", v.fail(err))
	}
	return v, nil
}

// SocketPair returns two connected stream sockets: one for Port or NIC, one for this
// process.
func SocketPair(name string) (qemuEnd *os.File, own net.Conn, err error) {
	near, far, err := socketPair(name)
	if err != nil {
		return nil, nil, err
	}
	own, err = net.FileConn(near)
	_ = near.Close()
	if err != nil {
		_ = far.Close()
		return nil, nil, err
	}
	return far, own, nil
}

// FilePair is SocketPair for a process that passes its end on.
func FilePair(name string) (qemuEnd, own *os.File, err error) { return socketPair(name) }

func socketPair(name string) (near, far *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name), nil
}

// wait waits for QEMU's end. When it has ended, its last words are read.
func (v *VM) wait() {
	err := v.cmd.Wait()
	v.mu.Lock()
	killed := v.killed
	v.mu.Unlock()
	if err != nil && !killed {
		v.err = &Ended{v.lastWords(), v.cmd.ProcessState.String()}
	}
	close(v.done)
}

// lastWords are the last lines that QEMU wrote, without its own name.
func (v *VM) lastWords() string {
	return ui.CleanTo(strings.ReplaceAll(capture.LastLines(v.words.String(), 3, "; "), v.name+": ", ""), 600)
}

// fail kills the VM and returns the reason: QEMU's own words if it ended, else err.
func (v *VM) fail(err error) error {
	if errors.Is(err, errClosed) {
		// QEMU closes the connection while it ends.
		select {
		case <-v.done:
		case <-time.After(2 * time.Second):
		}
	}
	select {
	case <-v.done:
		if v.err != nil {
			err = v.err
		} else if errors.Is(err, errClosed) {
			err = &Ended{v.lastWords(), v.cmd.ProcessState.String()}
		}
	default:
	}
	v.Kill()
	return err
}

// do sends a command; if QEMU ended instead of answering, the error has its words.
func (v *VM) do(ctx context.Context, command string, args, out any) error {
	err := v.qmp.do(ctx, command, args, out)
	if errors.Is(err, errClosed) {
		return v.fail(err)
	}
	return err
}

// Done is closed when QEMU has ended.
func (v *VM) Done() <-chan struct{} { return v.done }

// Wait waits for QEMU's end. It returns nil for a VM that was switched off or
// killed by Kill, else an *Ended.
func (v *VM) Wait() error {
	<-v.done
	return v.err
}

// Kill ends QEMU at once and waits until it has ended.
func (v *VM) Kill() {
	v.mu.Lock()
	v.killed = true
	v.mu.Unlock()
	_ = v.cmd.Process.Kill()
	<-v.done
	_ = v.qmp.conn.Close()
}

// PID is QEMU's process.
func (v *VM) PID() int { return v.cmd.Process.Pid }

// Cont lets the guest run.
func (v *VM) Cont(ctx context.Context) error { return v.do(ctx, "cont", nil, nil) }

// Stop stops the guest's CPUs.
func (v *VM) Stop(ctx context.Context) error { return v.do(ctx, "stop", nil, nil) }
