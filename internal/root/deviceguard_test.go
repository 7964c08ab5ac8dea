package root

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestDeviceGuardHolds: what was found at another start of the VM, and processes
// that cannot be seen, do not count as found to be harmless.
func TestDeviceGuardHolds(t *testing.T) {
	work, ok := privately(t)
	if !ok {
		return
	}
	stage(t, work, unix.MS_PRIVATE)
	run := filepath.Join(work, "run")
	must(t, os.MkdirAll(filepath.Join(run, "libvirt/qemu"), 0o755))
	must(t, unix.Mount(run, "/run", "", unix.MS_BIND, ""))
	daemon := exec.Command("sleep", "60")
	must(t, daemon.Start())
	ended := false
	end := func() {
		if !ended {
			_ = daemon.Process.Kill()
			_ = daemon.Wait()
			ended = true
		}
	}
	defer end()
	file := filepath.Join(libvirtState, "7-a-fs0-fs.pid")
	pid := func(text string) { must(t, os.WriteFile(file, []byte(text), 0o644)) }
	pid(fmt.Sprintln(daemon.Process.Pid))
	cgroup, err := cgroupOf(daemon.Process.Pid)
	must(t, err)
	g := DeviceGuard{Version: manifestVersion, Boot: bootID(), Domain: 7, Cgroups: []string{cgroup}}
	unseen := func(what string, err error, want string) {
		t.Helper()
		if !errors.As(err, new(*UnseenError)) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	must(t, g.Holds(7))
	unseen("started again without the hook", g.Holds(9), "started")
	open := g
	open.Open = "no cgroup2 is mounted"
	unseen("what held then", open.Holds(9), "started")
	if err := open.Holds(7); err == nil || errors.As(err, new(*UnseenError)) {
		t.Errorf("%v", err)
	}
	other := g
	other.Cgroups = []string{"/machine/other"}
	if err := other.Holds(7); err == nil || errors.As(err, new(*UnseenError)) || !strings.Contains(err.Error(), "has CAP_MKNOD") {
		t.Errorf("in another cgroup: %v", err)
	}
	// No daemon ran when the VM started, so the hook wrote down no cgroup.
	none := g
	none.Cgroups = nil
	if err := none.Holds(7); err == nil || errors.As(err, new(*UnseenError)) || !strings.Contains(err.Error(), "started since") {
		t.Errorf("of a VM that had no daemon when it started: %v", err)
	}
	must(t, os.Remove(file))
	must(t, none.Holds(7))
	pid(fmt.Sprintln(daemon.Process.Pid))

	// A user who may not see the processes of others.
	asUser := func() error {
		return onThread(func() error {
			// The process would change all threads.
			for _, call := range [][4]uintptr{{unix.SYS_SETGROUPS}, {unix.SYS_SETRESGID, 4399, 4399, 4399}, {unix.SYS_SETRESUID, 4399, 4399, 4399}} {
				if _, _, e := unix.RawSyscall(call[0], call[1], call[2], call[3]); e != 0 {
					return e
				}
			}
			return g.Holds(7)
		})
	}
	must(t, asUser())
	must(t, unix.Mount("proc", "/proc", "proc", 0, "hidepid=2"))
	unseen("hidden processes", asUser(), "cannot be seen")
	must(t, unix.Unmount("/proc", 0))

	pid("nonsense")
	unseen("a file that says nothing", g.Holds(7), "no process number")
	must(t, os.Remove(file))
	unseen("no daemon at all", g.Holds(7), "libvirt")
	pid(fmt.Sprintln(daemon.Process.Pid))
	end()
	must(t, g.Holds(7))
}
