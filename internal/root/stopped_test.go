package root_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/root/roottest"
)

// isStopped reports whether a process is stopped by a signal (proc_pid_stat(5)).
func isStopped(t *testing.T, pid string) bool {
	t.Helper()
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	roottest.Must(t, err)
	_, rest, _ := strings.Cut(string(b), ") ")
	return strings.HasPrefix(rest, "T")
}

// Ctrl-Z in a terminal stops the client but not the helper, which may hold a lock
// that every start of a network or VM on the machine waits for.
func TestCtrlZLeavesTheHelperRunning(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	self := addSudoer(t, work, "Defaults !use_pty\n%s ALL=(root) NOPASSWD: ALL")
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	roottest.Must(t, err)
	defer master.Close()
	roottest.Must(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	roottest.Must(t, err)
	name := fmt.Sprintf("/dev/pts/%d", n)
	slave, err := os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0)
	roottest.Must(t, err)
	roottest.Must(t, os.Chown(name, testUID, -1))
	// A shell with job control, as in a terminal.
	cmd := asUser(self, "wait")
	cmd.Path, cmd.Args = "/usr/bin/env", []string{"env", "--default-signal=HUP", "sh", "-mc", self + ` wait; echo "the shell continues"; read x`}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Setctty = true, true
	roottest.Must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	slave.Close()
	var seen strings.Builder
	waitFor := func(pattern string) string {
		t.Helper()
		roottest.Must(t, master.SetReadDeadline(time.Now().Add(20*time.Second)))
		b := make([]byte, 4096)
		for {
			if m := regexp.MustCompile(pattern).FindStringSubmatch(seen.String()); m != nil {
				return m[len(m)-1]
			}
			k, err := master.Read(b)
			if err != nil {
				t.Fatalf("%v after %q", err, &seen)
			}
			seen.Write(b[:k])
		}
	}
	helper := waitFor(`progress pid (\d+)`)
	_, err = master.WriteString("\x1a")
	roottest.Must(t, err)
	waitFor("the shell continues")
	time.Sleep(100 * time.Millisecond)
	if isStopped(t, helper) {
		t.Error("Ctrl-Z stopped the helper")
	}
	// The shell exits, which ends the stopped client too.
	_, err = master.WriteString("\n")
	roottest.Must(t, err)
	_ = cmd.Wait()
	waitGone(t, helper)
}

// The helper continues when it receives the signals that stop a terminal's
// processes, and has its own process group for the programs it starts.
func TestHelperIsNotStopped(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.Stage(t, work, unix.MS_PRIVATE)
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	roottest.Must(t, err)
	clientEnd, helperEnd := os.NewFile(uintptr(fds[0]), "client"), os.NewFile(uintptr(fds[1]), "helper")
	c := exec.Command("/proc/self/exe", root.Command)
	c.Stdin, c.Stderr = helperEnd, os.Stderr
	roottest.Must(t, c.Start())
	helperEnd.Close()
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	replies := bufio.NewReader(clientEnd)
	_, err = replies.ReadString('\n') // hello
	roottest.Must(t, err)
	if g, err := unix.Getpgid(c.Process.Pid); err != nil || g != c.Process.Pid {
		t.Errorf("the helper is in process group %d, not its own: %v", g, err)
	}
	for _, s := range []syscall.Signal{syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGINT} {
		roottest.Must(t, c.Process.Signal(s))
		time.Sleep(20 * time.Millisecond)
		if isStopped(t, fmt.Sprint(c.Process.Pid)) {
			t.Errorf("%v stops the helper", s)
			roottest.Must(t, c.Process.Signal(syscall.SIGCONT))
		}
	}
	_, err = clientEnd.WriteString(`{"kind":"export","op":{"vm_key":"` + roottest.Key + `"}}` + "\n")
	roottest.Must(t, err)
	if a, err := replies.ReadString('\n'); err != nil || !strings.Contains(a, `"result"`) {
		t.Errorf("%s %v", a, err)
	}
	clientEnd.Close()
	roottest.Must(t, c.Wait())
}
