package devguard_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/devguard"
	"aivm.dev/aivm/internal/root/manifest"
	"aivm.dev/aivm/internal/root/mount"
	"aivm.dev/aivm/internal/root/roottest"
	"aivm.dev/aivm/internal/root/virtiofsd"
)

// A record of another start of the VM, and processes that cannot be read, do not count
// as safe.
func TestDeviceGuardHolds(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.Stage(t, work, unix.MS_PRIVATE)
	run := filepath.Join(work, "run")
	roottest.Must(t, os.MkdirAll(filepath.Join(run, "libvirt/qemu"), 0o755))
	roottest.Must(t, unix.Mount(run, "/run", "", unix.MS_BIND, ""))
	daemon := exec.Command("sleep", "60")
	roottest.Must(t, daemon.Start())
	ended := false
	end := func() {
		if !ended {
			_ = daemon.Process.Kill()
			_ = daemon.Wait()
			ended = true
		}
	}
	defer end()
	file := filepath.Join(virtiofsd.LibvirtState, "7-a-fs0-fs.pid")
	pid := func(text string) { roottest.Must(t, os.WriteFile(file, []byte(text), 0o644)) }
	pid(fmt.Sprintln(daemon.Process.Pid))
	cgroup, err := devguard.CgroupOf(daemon.Process.Pid)
	roottest.Must(t, err)
	g := devguard.DeviceGuard{Version: manifest.Version, Boot: virtiofsd.BootID(), Domain: 7, Cgroups: []string{cgroup}}
	unseen := func(what string, err error, want string) {
		t.Helper()
		if !errors.As(err, new(*devguard.UnseenError)) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	roottest.Must(t, g.Holds(7))
	unseen("restarted without the hook", g.Holds(9), "started")
	open := g
	open.Open = "no cgroup2 is mounted"
	unseen("a failure recorded at another start", open.Holds(9), "started")
	if err := open.Holds(7); err == nil || errors.As(err, new(*devguard.UnseenError)) {
		t.Errorf("%v", err)
	}
	other := g
	other.Cgroups = []string{"/machine/other"}
	if err := other.Holds(7); err == nil || errors.As(err, new(*devguard.UnseenError)) || !strings.Contains(err.Error(), "has CAP_MKNOD") {
		t.Errorf("in another cgroup: %v", err)
	}
	// No daemon ran when the VM started, so the hook recorded no cgroup.
	none := g
	none.Cgroups = nil
	if err := none.Holds(7); err == nil || errors.As(err, new(*devguard.UnseenError)) || !strings.Contains(err.Error(), "started after the VM") {
		t.Errorf("a VM that had no daemon when it started: %v", err)
	}
	roottest.Must(t, os.Remove(file))
	roottest.Must(t, none.Holds(7))
	pid(fmt.Sprintln(daemon.Process.Pid))

	// A user who may not see other users' processes.
	asUser := func() error {
		return mount.OnThread(func() error {
			// The functions of package unix would change all threads.
			for _, call := range [][4]uintptr{{unix.SYS_SETGROUPS}, {unix.SYS_SETRESGID, 4399, 4399, 4399}, {unix.SYS_SETRESUID, 4399, 4399, 4399}} {
				if _, _, e := unix.RawSyscall(call[0], call[1], call[2], call[3]); e != 0 {
					return e
				}
			}
			return g.Holds(7)
		})
	}
	roottest.Must(t, asUser())
	roottest.Must(t, unix.Mount("proc", "/proc", "proc", 0, "hidepid=2"))
	unseen("hidden processes", asUser(), "cannot be read")
	roottest.Must(t, unix.Unmount("/proc", 0))

	pid("nonsense")
	unseen("a pid file without a number", g.Holds(7), "not a process number")
	roottest.Must(t, os.Remove(file))
	unseen("no daemon at all", g.Holds(7), "libvirt")
	pid(fmt.Sprintln(daemon.Process.Pid))
	end()
	roottest.Must(t, g.Holds(7))
}
