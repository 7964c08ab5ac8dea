package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// checkDiskSpace writes a large file in the guest and deletes it: after fstrim, the disk's file on this
// machine is as small as before. libvirt can also make a checkpoint of the disk.
func checkDiskSpace(t *testing.T, w *world, vm string) {
	const size = 300 << 20
	disk := filepath.Join("/var/lib/libvirt/aivm", "0-"+vm+".qcow2")
	used := func() int64 {
		t.Helper()
		var st syscall.Stat_t
		if err := syscall.Stat(disk, &st); err != nil {
			t.Fatal(err)
		}
		return st.Blocks * 512
	}
	if out := runHost(t, "qemu-img", "info", "-U", disk); !strings.Contains(out, "compat: 1.1") {
		t.Errorf("%s", out)
	}
	w.guest(vm, "sudo fstrim /")
	before := used()
	w.guest(vm, "dd if=/dev/zero of=large bs=1M count=300 conv=fsync status=none")
	written := used()
	w.guest(vm, "rm ~/large && sync && sudo fstrim /")
	if after := used(); written-before < size*9/10 || written-after < size*9/10 {
		t.Errorf("the disk's file had %d MB, with the large file %d, after fstrim %d", before>>20, written>>20, after>>20)
	}
	virsh(t, "checkpoint-create-as", vm, "e2e-checkpoint")
	virsh(t, "checkpoint-delete", vm, "e2e-checkpoint")
}

// checkOpenSession: vm down names a session that is open and asks; one that only keeps its connection
// does not count.
func checkOpenSession(t *testing.T, w *world, vm string) {
	w.guest(vm, "true") // leaves an ssh behind that nobody uses
	if r := w.must("", "vm", "down", vm, "--dry-run"); strings.Contains(r.stdout, "what is open") {
		t.Errorf("without a session: %s", r.stdout)
	}
	c := exec.Command("ssh", "-F", filepath.Join(w.home, ".ssh/config"), "-o", "BatchMode=yes", "-o", "ControlPath=none", vm, "echo up; exec sleep 300")
	c.Env = w.env
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = c.Process.Kill(), c.Wait() }()
	if _, err := out.Read(make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	named := fmt.Sprintf("ssh (process %d", c.Process.Pid)
	for _, argv := range [][]string{{"vm", "down", vm}, {"vm", "down", vm, "--force"}, {"vm", "restart", vm}} {
		if r := w.aivm("", argv...); r.code != 3 || !strings.Contains(r.stderr, named) || !strings.Contains(r.stderr, "--yes") {
			t.Errorf("%v: %+v", argv, r)
		}
	}
	if s := strings.TrimSpace(virsh(t, "domstate", vm)); s != "running" {
		t.Errorf("the VM is %s", s)
	}
}
