package devguard_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/pause"
	"aivm.dev/aivm/internal/root/devguard"
	"aivm.dev/aivm/internal/root/roottest"
	"aivm.dev/aivm/internal/root/virtiofsd"
)

// A process in a cgroup with the policy cannot make device nodes, even as root with all
// capabilities, and can still use existing devices.
func TestNoDeviceNodes(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.Stage(t, work, syscall.MS_PRIVATE)
	top, err := devguard.CgroupMount()
	if err != nil {
		// No cgroup2 is mounted, as on a machine without systemd.
		roottest.Must(t, os.Mkdir(filepath.Join(work, "cgroup"), 0o755))
		roottest.Must(t, unix.Mount("none", filepath.Join(work, "cgroup"), "cgroup2", 0, ""))
		top, err = devguard.CgroupMount()
	}
	roottest.Must(t, err)
	// Named as by libvirt: the VM's cgroup, and below it one for QEMU and the daemons
	// that start with it.
	machine := "/machine"
	if _, err := os.Stat(filepath.Join(top, machine)); err != nil {
		roottest.Must(t, os.Mkdir(filepath.Join(top, machine), 0o755))
		t.Cleanup(func() { _ = os.Remove(filepath.Join(top, machine)) })
	}
	vm := fmt.Sprintf("%s/aivm-test-%d", machine, os.Getpid())
	dir := filepath.Join(top, vm, "emulator")
	roottest.Must(t, os.MkdirAll(dir, 0o755))
	t.Cleanup(func() { _ = os.Remove(filepath.Join(top, vm)) })
	c := exec.Command("sh")
	in, err := c.StdinPipe()
	roottest.Must(t, err)
	var out strings.Builder
	c.Stdout, c.Stderr = &out, &out
	roottest.Must(t, c.Start())
	t.Cleanup(func() { _ = os.Remove(dir) })
	roottest.Must(t, os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(fmt.Sprint(c.Process.Pid)), 0o644))
	if may, err := devguard.HasMknod(c.Process.Pid); !may || err != nil {
		t.Errorf("root's shell has CAP_MKNOD: %v %v", may, err)
	}
	before := filepath.Join(work, "before")
	roottest.Must(t, exec.Command("mknod", before, "b", "7", "0").Run())
	got, err := devguard.DenyDevices(c.Process.Pid)
	roottest.Must(t, err)
	if got != vm {
		t.Errorf("the policy is at %s, not at %s", got, vm)
	}
	// A second call finds the existing policy.
	if again, err := devguard.DenyDevices(c.Process.Pid); err != nil || again != vm {
		t.Errorf("again: %s %v", again, err)
	}
	if n, err := devguard.DevicePolicies(filepath.Join(top, vm)); err != nil || n != 1 {
		t.Errorf("%d policies, %v", n, err)
	}
	// Hot-plugged daemons are in the VM's cgroup itself.
	roottest.Must(t, os.WriteFile(filepath.Join(top, vm, "cgroup.procs"), []byte(fmt.Sprint(c.Process.Pid)), 0o644))
	fmt.Fprintf(in, "cd %s\nmknod b b 7 0; mknod c c 1 3; mkfifo p && echo fifo; echo x >/dev/null && echo null\n", work)
	in.Close()
	roottest.Must(t, c.Wait())
	if got := out.String(); strings.Count(got, "Operation not permitted") != 2 || !strings.Contains(got, "fifo\nnull\n") {
		t.Errorf("with the policy:\n%s", got)
	}
	for _, n := range []string{"b", "c"} {
		if _, err := os.Lstat(filepath.Join(work, n)); err == nil {
			t.Errorf("the device node %s was made", n)
		}
	}
	// A process that is in no VM's cgroup is moved into one; its old cgroup and the other
	// processes in it are not restricted.
	c = exec.Command("sh", "-c", "read x; mknod "+work+"/later b 7 0")
	in, err = c.StdinPipe()
	roottest.Must(t, err)
	roottest.Must(t, c.Start())
	if got, err := devguard.DenyDevices(c.Process.Pid); err != nil || got != devguard.OwnCgroup {
		t.Errorf("a process in no VM's cgroup: %q %v", got, err)
	}
	in.Close()
	if err := c.Wait(); err == nil {
		t.Error("a process that was moved made a device node")
	}
	roottest.Must(t, exec.Command("mknod", filepath.Join(work, "free"), "b", "7", "0").Run())
	_ = os.Remove(filepath.Join(top, devguard.OwnCgroup)) // fails if a real daemon is in it
	for cgroup, want := range map[string]string{
		"/machine/qemu-7-a.libvirt-qemu/emulator":                        "/machine/qemu-7-a.libvirt-qemu",
		"/machine/qemu-7-a.libvirt-qemu":                                 "/machine/qemu-7-a.libvirt-qemu",
		"/machine.slice/machine-qemu\\x2d1\\x2da.scope/libvirt/emulator": "/machine.slice/machine-qemu\\x2d1\\x2da.scope",
		"/system.slice/libvirtd.service":                                 "", "/": "", "/machine": "", "/machine.slice": "",
	} {
		if got, _ := devguard.MachineCgroup(cgroup); got != want {
			t.Errorf("%s: %s, not %s", cgroup, got, want)
		}
	}
	// A VM without a daemon: libvirt puts later daemons into QEMU's cgroup.
	run := filepath.Join(work, "run")
	roottest.Must(t, os.MkdirAll(filepath.Join(run, "libvirt/qemu"), 0o755))
	roottest.Must(t, unix.Mount(run, "/run", "", unix.MS_BIND, ""))
	c = exec.Command("sh", "-c", "read x; mknod "+work+"/hotplugged b 7 0")
	in, err = c.StdinPipe()
	roottest.Must(t, err)
	roottest.Must(t, c.Start())
	roottest.Must(t, os.WriteFile(filepath.Join(virtiofsd.LibvirtState, "a.pid"), []byte(fmt.Sprint(c.Process.Pid)), 0o644))
	if got, err := devguard.GuardDevices(7, "a"); err != nil || got != nil {
		t.Errorf("QEMU in no VM's cgroup: %v %v", got, err)
	}
	other := fmt.Sprintf("%s/aivm-test-%d-b", machine, os.Getpid())
	roottest.Must(t, os.Mkdir(filepath.Join(top, other), 0o755))
	t.Cleanup(func() { _ = os.Remove(filepath.Join(top, other)) })
	roottest.Must(t, os.WriteFile(filepath.Join(top, other, "cgroup.procs"), []byte(fmt.Sprint(c.Process.Pid)), 0o644))
	if got, err := devguard.GuardDevices(7, "a"); err != nil || len(got) != 1 || got[0] != other {
		t.Errorf("QEMU in the VM's cgroup: %v %v", got, err)
	}
	in.Close()
	if err := c.Wait(); err == nil {
		t.Error("a hot-plugged daemon made a device node")
	}
	// A process without the capability.
	c = exec.Command("setpriv", "--inh-caps=-all", "--bounding-set=-all", "--reuid=4399", "--clear-groups", "sleep", "5")
	roottest.Must(t, c.Start())
	defer func() { _ = c.Process.Kill(); _ = c.Wait() }()
	for range 100 {
		if comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", c.Process.Pid)); strings.TrimSpace(string(comm)) == "sleep" {
			break
		}
		_ = pause.For(t.Context(), 20_000_000)
	}
	if may, err := devguard.HasMknod(c.Process.Pid); may || err != nil {
		t.Errorf("a user's process: %v %v", may, err)
	}
}
