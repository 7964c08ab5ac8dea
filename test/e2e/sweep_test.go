package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// sweep removes what an earlier, killed test run did not: VMs whose names begin with e2e, their
// disks, networks, network namespaces, and mounts. Only these tests use such names, and only one test run is on a host
// at a time.
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
	// The host end of a namespace's veth pair has an address, which the firewall's rules take up.
	for _, name := range []string{lanNamespace, unknownNamespace} {
		_ = exec.Command("ip", "netns", "del", name).Run()
		_ = exec.Command("ip", "link", "del", name+"0").Run()
	}
	table, _ := os.ReadFile("/proc/self/mountinfo")
	mounts := strings.Split(string(table), "\n")
	slices.Reverse(mounts) // nested mounts first
	for _, line := range mounts {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], "/var/lib/aivm/export/") && strings.Contains(f[4], "-e2e") {
			_ = unix.Unmount(f[4], unix.UMOUNT_NOFOLLOW)
		}
	}
	for _, pattern := range []string{
		"/var/lib/libvirt/aivm/[0-9]*-e2e*", "/var/lib/aivm/manifest/vm-[0-9]*-e2e*.json", "/var/lib/aivm/manifest/devices-[0-9]*-e2e*",
		// os.Remove removes these directories only if they are empty; a mounted one stays.
		"/var/lib/aivm/export/[0-9]*-e2e*/*", "/var/lib/aivm/export/[0-9]*-e2e*",
	} {
		leftover, _ := filepath.Glob(pattern)
		for _, p := range leftover {
			_ = os.Remove(p)
		}
	}
}
