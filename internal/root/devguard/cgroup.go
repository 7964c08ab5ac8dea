package devguard

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/mountinfo"
	"aivm.dev/aivm/internal/root/virtiofsd"
)

// hasMknod reports whether a process has, or can get, CAP_MKNOD. The kernel
// honours it in the first user namespace alone.
func hasMknod(pid int) (bool, error) {
	proc := fmt.Sprintf("/proc/%d", pid)
	for _, set := range []string{"CapPrm:", "CapEff:", "CapInh:", "CapBnd:"} {
		v, err := virtiofsd.StatusField(proc, set)
		if err != nil {
			return false, err
		}
		if len(v) != 1 {
			return false, fmt.Errorf("%s/status has no number in %s", proc, set)
		}
		caps, err := strconv.ParseUint(v[0], 16, 64)
		if err != nil {
			return false, err
		}
		// With an empty permitted set the bounding set alone gives nothing back
		// without a program file that has capabilities; virtiofsd executes none.
		if set != "CapBnd:" && caps&(1<<unix.CAP_MKNOD) != 0 {
			return true, nil
		}
	}
	return false, nil
}

// cgroupOf is the cgroup of version 2 a process is in, "/" at the top.
func cgroupOf(pid int) (string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "0::"); ok {
			if v = strings.TrimSpace(v); strings.HasPrefix(v, "/") && !strings.Contains(v+"/", "/../") {
				return v, nil
			}
		}
	}
	return "", fmt.Errorf("process %d is in no cgroup of version 2 that is seen here", pid)
}

// machineCgroup is the VM's own cgroup above that of one of its processes:
// libvirt makes it below "machine" or "machine.slice".
func machineCgroup(cgroup string) (string, bool) {
	parts := strings.Split(cgroup, "/") // the first is empty
	for i, p := range parts {
		if (p == "machine" || p == "machine.slice") && i+1 < len(parts) {
			return strings.Join(parts[:i+2], "/"), true
		}
	}
	return "", false
}

// ownCgroup is for daemons libvirt gave no cgroup of the VM's.
const ownCgroup = "/aivm-virtiofsd"

// denyDevices sees to it that the cgroup of a VM's process refuses to make device
// nodes, and returns that cgroup. One that has a device policy already has
// libvirt's. A process that is not in a cgroup of the VM is moved: what else is
// in its cgroup, libvirt itself maybe, has to make device nodes.
func denyDevices(pid int) (string, error) {
	top, err := cgroupMount()
	if err != nil {
		return "", err
	}
	at, err := cgroupOf(pid)
	if err != nil {
		return "", err
	}
	vm, ok := machineCgroup(at)
	if !ok {
		vm = ownCgroup
		if err := os.Mkdir(filepath.Join(top, vm), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", err
		}
		if err := os.WriteFile(filepath.Join(top, vm, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644); err != nil {
			return "", err
		}
		at = vm
	}
	for dir := at; strings.HasPrefix(dir, vm); dir = filepath.Dir(dir) {
		if n, err := devicePolicies(filepath.Join(top, dir)); err != nil {
			return "", err
		} else if n > 0 {
			return dir, nil
		}
	}
	return vm, attachDeny(filepath.Join(top, vm))
}

// cgroupMount is where the hierarchy of version 2 is mounted.
func cgroupMount() (string, error) {
	ms, err := mountinfo.Read(mountinfo.Self)
	if err != nil {
		return "", err
	}
	for _, m := range ms {
		if m.Type == "cgroup2" && m.Root == "/" {
			return m.Point, nil
		}
	}
	return "", errors.New("no cgroup2 is mounted")
}

// oldDevices is the policy of version 1 for a process, "" for none at all.
func oldDevices(pid int) (string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 || f[1] != "devices" {
			continue
		}
		ms, err := mountinfo.Read(mountinfo.Self)
		if err != nil {
			return "", err
		}
		for _, m := range ms {
			if m.Type == "cgroup" && m.Root == "/" && filepath.Base(m.Point) == "devices" {
				list, err := os.ReadFile(filepath.Join(m.Point, f[2], "devices.list"))
				return string(list), err
			}
		}
	}
	return "", errors.New("no device policy of version 1")
}
