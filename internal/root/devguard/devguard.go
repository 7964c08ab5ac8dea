// Package devguard keeps guest root from making device nodes in shared folders: it
// attaches a device policy to the cgroups of the VMs' virtiofsd processes and records
// whether that succeeded.
package devguard

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/manifest"
	"aivm.dev/aivm/internal/root/rootfile"
	"aivm.dev/aivm/internal/root/virtiofsd"
)

// A DeviceGuard records, at the start of a VM, whether guest root can make device nodes
// in its folders: virtiofsd has CAP_MKNOD and makes the nodes that guest root requests,
// unless a cgroup forbids it. The token's mount is nodev, but the same folder is
// accessible on this machine without nodev.
type DeviceGuard struct {
	Version int    `json:"version"`
	Boot    string `json:"boot"`   // boot ID of this machine
	Domain  int    `json:"domain"` // libvirt's ID of the running VM
	Open    string `json:"open"`   // why virtiofsd may be able to make device nodes; "" if it cannot
	// Cgroups are the cgroups that forbid device nodes, to themselves and all below.
	Cgroups []string `json:"cgroups,omitempty"`
}

// Read reads the record of the VM's last start; fs.ErrNotExist if the VM started in an
// earlier boot of this machine, or without the hook. Any user may call it.
func Read(vmKey string) (DeviceGuard, error) {
	var g DeviceGuard
	if err := manifest.Read(rootfile.DeviceGuardPath(vmKey), &g); err != nil {
		return g, err
	}
	if g.Version != manifest.Version {
		return g, manifest.VersionError(rootfile.DeviceGuardPath(vmKey), g.Version)
	}
	if g.Boot != virtiofsd.BootID() {
		return g, fmt.Errorf("%s: it was written in an earlier boot: %w", rootfile.DeviceGuardPath(vmKey), fs.ErrNotExist)
	}
	return g, nil
}

// Recorded reports whether a record exists, from this or an earlier boot. It is removed with
// the VM's export root.
func Recorded(vmKey string) bool {
	_, err := os.Lstat(rootfile.DeviceGuardPath(vmKey))
	return err == nil
}

// Forget removes the record of the VM's last start, before the VM starts again.
func Forget(owner int, vm string) {
	if key := rootfile.VMKey(owner, vm); rootfile.ValidVMKey(key) {
		_ = os.Remove(rootfile.DeviceGuardPath(key))
	}
}

// Guard keeps the daemons of a started VM from making device nodes, and records whether
// that succeeded. domain is libvirt's ID of the running VM, "" for a definition without
// one. A failure does not stop the VM.
func Guard(owner int, vm, domain string) {
	key := rootfile.VMKey(owner, vm)
	if !rootfile.ValidVMKey(key) {
		return
	}
	id, err := strconv.Atoi(domain)
	if err != nil {
		return
	}
	g := DeviceGuard{Version: manifest.Version, Boot: virtiofsd.BootID(), Domain: id}
	if g.Cgroups, err = guardDevices(id, vm); err != nil {
		g.Open = err.Error()
		fmt.Fprintf(os.Stderr, "aivm: guest root can make device nodes in the folders of VM %s: %v\n", vm, err)
	}
	if err := manifest.Write(rootfile.DeviceGuardPath(key), g); err != nil {
		fmt.Fprintf(os.Stderr, "aivm: %v\n", err)
	}
}

// startedDaemons returns the virtiofsd processes that libvirt started for the running
// domain: those in its pid files, and their children, which serve the guest.
func startedDaemons(id int) ([]int, error) {
	files, err := virtiofsd.LibvirtPIDs(strconv.Itoa(id) + "-*-fs.pid")
	if err != nil {
		return nil, err
	}
	parents := map[int]bool{}
	for _, pid := range files {
		parents[pid] = true
	}
	var out []int
	for pid := range parents {
		out = append(out, pid)
	}
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	for _, p := range procs {
		v, err := virtiofsd.StatusField(p, "PPid:")
		if err != nil || len(v) != 1 {
			continue // it has ended
		}
		parent, err := strconv.Atoi(v[0])
		if pid, perr := strconv.Atoi(filepath.Base(p)); err == nil && perr == nil && parents[parent] {
			out = append(out, pid)
		}
	}
	return out, nil
}

// guardDevices keeps the daemons of a running domain from making device nodes, and those
// that libvirt starts later for a hot-plugged folder. It returns the cgroups that forbid
// device nodes; an error says why none does.
func guardDevices(id int, name string) (cgroups []string, err error) {
	pids, err := startedDaemons(id)
	if err != nil {
		return nil, err
	}
	daemons, err := virtiofsd.NewDaemonTest()
	if err != nil {
		return nil, err
	}
	pids = slices.DeleteFunc(pids, func(pid int) bool { return !daemons.StartedByRoot(pid) })
	if len(pids) == 0 {
		// Libvirt puts later daemons into the VM's cgroup, in which QEMU is already. Where
		// libvirt made no cgroup, DeviceGuard.Holds reports later daemons.
		qemu, err := virtiofsd.LibvirtPIDs(name + ".pid")
		if err != nil || len(qemu) != 1 {
			return nil, err
		}
		at, err := cgroupOf(qemu[0])
		if _, ok := machineCgroup(at); err != nil || !ok {
			return nil, nil
		}
		dir, err := denyDevices(qemu[0])
		if err != nil {
			return nil, fmt.Errorf("no cgroup forbids device nodes: %w", err)
		}
		return []string{dir}, nil
	}
	for _, pid := range pids {
		may, err := hasMknod(pid)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !may {
			continue // it has ended, or cannot make device nodes
		}
		if err != nil {
			return nil, err
		}
		dir, err := denyDevices(pid)
		if err != nil {
			if list, lerr := oldDevices(pid); lerr == nil && !strings.Contains(list, "m\n") {
				continue
			}
			return nil, fmt.Errorf("virtiofsd (process %d) has CAP_MKNOD, and no cgroup forbids device nodes: %w", pid, err)
		}
		if !slices.Contains(cgroups, dir) {
			cgroups = append(cgroups, dir)
		}
	}
	return cgroups, nil
}

// An UnseenError says why it is unknown whether guest root can make device nodes.
type UnseenError struct{ Why error }

func (e *UnseenError) Error() string { return e.Why.Error() }

func (e *UnseenError) Unwrap() error { return e.Why }

// Holds checks that guest root of the running domain with this ID cannot make device
// nodes. It returns nil, an error that says why guest root can, or an UnseenError if
// that is unknown. Daemons that were started after the VM, for folders with their own
// device, must be in one of g.Cgroups. Any user may call it.
func (g DeviceGuard) Holds(domain int) error {
	if g.Domain != domain {
		return &UnseenError{errors.New("the VM was last started without aivm's hook")}
	}
	if g.Open != "" {
		return errors.New(g.Open)
	}
	pids, err := startedDaemons(g.Domain)
	if err != nil {
		return &UnseenError{err}
	}
	if len(pids) == 0 && len(g.Cgroups) > 0 {
		return &UnseenError{fmt.Errorf("%s has no pid file of the VM's virtiofsd", virtiofsd.LibvirtState)}
	}
	for _, pid := range pids {
		may, err := hasMknod(pid)
		if err != nil && ended(pid) || err == nil && !may {
			continue
		}
		if err != nil {
			return &UnseenError{fmt.Errorf("the capabilities of virtiofsd (process %d) cannot be read: %w", pid, err)}
		}
		if list, err := oldDevices(pid); err == nil && !strings.Contains(list, "m\n") {
			continue
		}
		at, err := cgroupOf(pid)
		if err != nil && ended(pid) {
			continue
		}
		if err != nil {
			return &UnseenError{err}
		}
		if !slices.ContainsFunc(g.Cgroups, func(dir string) bool { return at == dir || strings.HasPrefix(at, dir+"/") }) {
			return fmt.Errorf("virtiofsd (process %d) was started after the VM and has CAP_MKNOD; the next start of the VM fixes this", pid)
		}
	}
	return nil
}

// ended reports whether no process has this number. A process that /proc hides from the
// user (hidepid in proc(5)) has not ended.
func ended(pid int) bool { return errors.Is(unix.Kill(pid, 0), unix.ESRCH) }
