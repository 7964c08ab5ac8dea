package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// sweep removes what a run that was killed left: VMs whose names begin with
// e2e, their disks, networks, and mounts. Nobody else has such names, and one
// run at a time is on a machine.
func sweep() {
	virsh := func(args ...string) string {
		out, _ := exec.Command("virsh", append([]string{"-q", "-c", "qemu:///system"}, args...)...).Output()
		return string(out)
	}
	for _, name := range strings.Fields(virsh("list", "--all", "--name")) {
		if strings.HasPrefix(name, "e2e") {
			virsh("destroy", name)
			virsh("undefine", name, "--snapshots-metadata")
		}
	}
	for name := range networks() {
		if strings.HasPrefix(name, "e2e-") {
			virsh("net-destroy", name)
			virsh("net-undefine", name)
			_ = os.Remove("/var/lib/aivm/manifest/net-" + name + ".json")
		}
	}
	table, _ := os.ReadFile("/proc/self/mountinfo")
	mounts := strings.Split(string(table), "\n")
	slices.Reverse(mounts) // those on others first
	for _, line := range mounts {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], "/var/lib/aivm/export/") && strings.Contains(f[4], "-e2e") {
			_ = unix.Unmount(f[4], unix.UMOUNT_NOFOLLOW)
		}
	}
	for _, pattern := range []string{
		"/var/lib/libvirt/aivm/[0-9]*-e2e*", "/var/lib/aivm/manifest/vm-[0-9]*-e2e*.json", "/var/lib/aivm/manifest/devices-[0-9]*-e2e*",
		// Empty directories: what is still mounted is not looked into.
		"/var/lib/aivm/export/[0-9]*-e2e*/*", "/var/lib/aivm/export/[0-9]*-e2e*",
	} {
		left, _ := filepath.Glob(pattern)
		for _, p := range left {
			_ = os.Remove(p)
		}
	}
}
