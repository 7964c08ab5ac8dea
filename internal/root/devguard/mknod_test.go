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

// A process whose cgroup got the policy can make no device node, root with all
// capabilities too, and can go on using the devices it has.
func TestNoDeviceNodes(t *testing.T) {
	work, ok := roottest.Privately(t)
	if !ok {
		return
	}
	roottest.Stage(t, work, syscall.MS_PRIVATE)
	top, err := devguard.CgroupMount()
	if err != nil {
		// Nobody mounted it here, as in a root without systemd.
		roottest.Must(t, os.Mkdir(filepath.Join(work, "cgroup"), 0o755))
		roottest.Must(t, unix.Mount("none", filepath.Join(work, "cgroup"), "cgroup2", 0, ""))
		top, err = devguard.CgroupMount()
	}
	roottest.Must(t, err)
	// As libvirt names them: the VM's cgroup, and one for QEMU and what starts
	// with it.
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
	// Again, it finds the one that is there.
	if again, err := devguard.DenyDevices(c.Process.Pid); err != nil || again != vm {
		t.Errorf("again: %s %v", again, err)
	}
	if n, err := devguard.DevicePolicies(filepath.Join(top, vm)); err != nil || n != 1 {
		t.Errorf("%d policies, %v", n, err)
	}
	// What is plugged in later is in the VM's cgroup itself.
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
	// A process that is in no cgroup of a VM's gets one; what it was in, and all
	// else in there, stays free.
	c = exec.Command("sh", "-c", "read x; mknod "+work+"/later b 7 0")
	in, err = c.StdinPipe()
	roottest.Must(t, err)
	roottest.Must(t, c.Start())
	if got, err := devguard.DenyDevices(c.Process.Pid); err != nil || got != devguard.OwnCgroup {
		t.Errorf("in no VM's cgroup: %q %v", got, err)
	}
	in.Close()
	if err := c.Wait(); err == nil {
		t.Error("a process that was moved made a device node")
	}
	roottest.Must(t, exec.Command("mknod", filepath.Join(work, "free"), "b", "7", "0").Run())
	_ = os.Remove(filepath.Join(top, devguard.OwnCgroup)) // unless something real is in it
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
	// A VM without a daemon: QEMU's cgroup is the one later daemons come into.
	run := filepath.Join(work, "run")
	roottest.Must(t, os.MkdirAll(filepath.Join(run, "libvirt/qemu"), 0o755))
	roottest.Must(t, unix.Mount(run, "/run", "", unix.MS_BIND, ""))
	c = exec.Command("sh", "-c", "read x; mknod "+work+"/hotplugged b 7 0")
	in, err = c.StdinPipe()
	roottest.Must(t, err)
	roottest.Must(t, c.Start())
	roottest.Must(t, os.WriteFile(filepath.Join(virtiofsd.LibvirtState, "a.pid"), []byte(fmt.Sprint(c.Process.Pid)), 0o644))
	if got, err := devguard.GuardDevices(7, "a"); err != nil || got != nil {
		t.Errorf("QEMU in no cgroup of the VM's: %v %v", got, err)
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
		t.Error("what was plugged in later made a device node")
	}
	// A process without the capability is let be.
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
