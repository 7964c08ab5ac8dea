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

// stopped reports whether a process is stopped by a signal (proc_pid_stat(5)).
func stopped(t *testing.T, pid string) bool {
	t.Helper()
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	roottest.Must(t, err)
	_, rest, _ := strings.Cut(string(b), ") ")
	return strings.HasPrefix(rest, "T")
}

// Ctrl-Z in a terminal stops the client and not the helper, which may hold a
// lock that every start of a network or VM on the machine waits for.
func TestCtrlZLeavesTheHelperRunning(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	self := machine(t, work, "Defaults !use_pty\n%s ALL=(root) NOPASSWD: ALL")
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
	cmd := asUser(self, "hang")
	cmd.Path, cmd.Args = "/usr/bin/env", []string{"env", "--default-signal=HUP", "sh", "-mc", self + ` hang; echo "the shell goes on"; read x`}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Setctty = true, true
	roottest.Must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	slave.Close()
	var seen strings.Builder
	until := func(pattern string) string {
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
	helper := until(`progress pid (\d+)`)
	_, err = master.WriteString("\x1a")
	roottest.Must(t, err)
	until("the shell goes on")
	time.Sleep(100 * time.Millisecond)
	if stopped(t, helper) {
		t.Error("Ctrl-Z stopped the helper")
	}
	// The shell ends, and the client that it stopped with it.
	_, err = master.WriteString("\n")
	roottest.Must(t, err)
	_ = cmd.Wait()
	gone(t, helper)
}

// A helper that is sent what stops the processes of a terminal goes on, and has
// a process group of its own for what it starts.
func TestHelperIsNotStopped(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.Stage(t, work, unix.MS_PRIVATE)
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	roottest.Must(t, err)
	mine, theirs := os.NewFile(uintptr(fds[0]), "mine"), os.NewFile(uintptr(fds[1]), "theirs")
	c := exec.Command("/proc/self/exe", root.Command)
	c.Stdin, c.Stderr = theirs, os.Stderr
	roottest.Must(t, c.Start())
	theirs.Close()
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	answers := bufio.NewReader(mine)
	_, err = answers.ReadString('\n') // hello
	roottest.Must(t, err)
	if g, err := unix.Getpgid(c.Process.Pid); err != nil || g != c.Process.Pid {
		t.Errorf("in the process group %d of others: %v", g, err)
	}
	for _, s := range []syscall.Signal{syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGINT} {
		roottest.Must(t, c.Process.Signal(s))
		time.Sleep(20 * time.Millisecond)
		if stopped(t, fmt.Sprint(c.Process.Pid)) {
			t.Errorf("%v stops it", s)
			roottest.Must(t, c.Process.Signal(syscall.SIGCONT))
		}
	}
	_, err = mine.WriteString(`{"kind":"export","op":{"vm_key":"` + roottest.Key + `"}}` + "\n")
	roottest.Must(t, err)
	if a, err := answers.ReadString('\n'); err != nil || !strings.Contains(a, `"result"`) {
		t.Errorf("%s %v", a, err)
	}
	mine.Close()
	roottest.Must(t, c.Wait())
}
