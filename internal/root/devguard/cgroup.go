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

// hasMknod reports whether a process has, or can get, CAP_MKNOD. The kernel honours it
// only in the initial user namespace.
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
		// The bounding set alone gives no capability back: that needs the execution of a
		// program file with capabilities, and virtiofsd executes none.
		if set != "CapBnd:" && caps&(1<<unix.CAP_MKNOD) != 0 {
			return true, nil
		}
	}
	return false, nil
}

// cgroupOf returns the path of a process's cgroup v2, "/" for the root cgroup.
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
	return "", fmt.Errorf("process %d is in no cgroup v2 that is visible from here", pid)
}

// machineCgroup returns the VM's cgroup, given that of one of its processes: libvirt
// makes it below "machine" or "machine.slice".
func machineCgroup(cgroup string) (string, bool) {
	parts := strings.Split(cgroup, "/") // the first is empty
	for i, p := range parts {
		if (p == "machine" || p == "machine.slice") && i+1 < len(parts) {
			return strings.Join(parts[:i+2], "/"), true
		}
	}
	return "", false
}

// ownCgroup is aivm's cgroup for daemons that libvirt did not put into a cgroup of the VM.
const ownCgroup = "/aivm-virtiofsd"

// denyDevices makes the cgroup of a VM's process refuse mknod of device nodes, and
// returns that cgroup. An existing device policy is libvirt's and suffices. A process
// that is not in a cgroup of the VM is moved into ownCgroup: other processes of its
// cgroup, perhaps libvirt itself, must be able to make device nodes.
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

// cgroupMount returns the mount point of the cgroup v2 hierarchy.
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

// oldDevices returns the device list of a process's cgroup v1; "" if the list is empty,
// an error if there is none.
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
	return "", errors.New("no device policy of cgroup v1")
}
