package hostsetup_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/hostsetup"
	"aivm.dev/aivm/internal/root/roottest"
)

// fakeDaemon listens on the socket of its argument as libvirtd does, until the file
// SOCKET.run is removed.
func fakeDaemon() int {
	sock := os.Args[1]
	os.Remove(sock)
	time.Sleep(300 * time.Millisecond)
	l, err := net.Listen("unix", sock)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	go func() {
		for {
			if _, err := os.Stat(sock + ".run"); err != nil {
				l.Close()
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	for {
		c, err := l.Accept()
		if err != nil {
			return 0
		}
		_, _ = c.Write([]byte("hello"))
		c.Close()
	}
}

func TestDaemonIsStartedOnceAndAwaited(t *testing.T) {
	if _, err := os.Stat(hostsetup.SystemdDir); err == nil {
		t.Log("systemd runs on this machine: e2e tests cover the start through it")
	}
	dir := t.TempDir()
	sock := filepath.Join(dir, "s")
	roottest.Must(t, os.WriteFile(sock+".run", nil, 0o600))
	t.Cleanup(func() { os.Remove(sock + ".run") })
	// The socket file and pid file of a killed daemon do not count as a running one.
	l, err := net.Listen("unix", sock)
	roottest.Must(t, err)
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	roottest.Must(t, os.WriteFile(filepath.Join(dir, "pid"), []byte("1\n"), 0o600))

	self, err := os.Executable()
	roottest.Must(t, err)
	starts := 0
	d := hostsetup.Daemon{Unit: "x", Socket: sock, Wait: 10 * time.Second, Argv: []string{"sh", "-c", roottest.RoleEnv + "=daemon " + self + " " + sock + " >/dev/null 2>&1 &"}}
	for range 2 {
		roottest.Must(t, d.StartDirectly(t.Context(), func(l string, _ float64) {
			if strings.HasPrefix(l, "starting") {
				starts++
			}
		}))
	}
	if starts != 1 {
		t.Errorf("started %d times", starts)
	}
	f, err := hostsetup.DialSocket(t.Context(), sock)
	roottest.Must(t, err)
	defer f.Close()
	c, err := net.FileConn(f)
	roottest.Must(t, err)
	defer c.Close()
	buf := make([]byte, 5)
	if _, err := c.Read(buf); err != nil || string(buf) != "hello" {
		t.Errorf("the passed descriptor: %q %v", buf, err)
	}
}

func TestDaemonThatNeverAnswers(t *testing.T) {
	d := hostsetup.Daemon{Unit: "x", Socket: filepath.Join(t.TempDir(), "s"), Wait: 300 * time.Millisecond, Argv: []string{"true"}}
	if err := d.StartDirectly(t.Context(), func(string, float64) {}); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("got %v", err)
	}
	d.Argv = []string{"sh", "-c", "echo because >&2; exit 3"}
	if err := d.StartDirectly(t.Context(), func(string, float64) {}); err == nil || !strings.Contains(err.Error(), "because") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	d.Wait, d.Argv = time.Minute, []string{"true"}
	time.AfterFunc(100*time.Millisecond, cancel)
	if err := d.StartDirectly(ctx, func(string, float64) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestLockHolderIsNamed(t *testing.T) {
	p := filepath.Join(t.TempDir(), "lock")
	roottest.Must(t, os.WriteFile(p, nil, 0o600))
	if got := hostsetup.LockHolder(p); got != 0 {
		t.Errorf("the lock is free, but %d is reported", got)
	}
	// Locks belong to a process, so another process must hold it.
	held := holdLock(t, p)
	if got := hostsetup.LockHolder(p); got != held {
		t.Errorf("held by %d, found %d", held, got)
	}
	if got := hostsetup.LockHolder(filepath.Join(t.TempDir(), "none")); got != 0 {
		t.Errorf("no file exists, but %d is reported", got)
	}
}

// holdLock starts a process that holds a lock on path as dpkg does, until the
// test ends, and returns its pid.
func holdLock(t *testing.T, path string) int {
	t.Helper()
	self, err := os.Executable()
	roottest.Must(t, err)
	cmd := exec.Command(self, path)
	cmd.Env = append(os.Environ(), roottest.RoleEnv+"=lock")
	in, err := cmd.StdinPipe()
	roottest.Must(t, err)
	out, err := cmd.StdoutPipe()
	roottest.Must(t, err)
	roottest.Must(t, cmd.Start())
	t.Cleanup(func() { in.Close(); _ = cmd.Wait() })
	var word string
	_, err = fmt.Fscan(out, &word)
	roottest.Must(t, err)
	return cmd.Process.Pid
}

func lockRole() int {
	f, err := os.OpenFile(os.Args[1], os.O_RDWR, 0)
	if err != nil {
		return 1
	}
	if err := unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		return 1
	}
	fmt.Println("held")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}
