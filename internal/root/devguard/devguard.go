// Package devguard keeps the guests' root users from making device nodes in shared
// folders: it attaches a policy to the cgroups of the VMs' virtiofsd processes
// and notes whether that worked.
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

// A DeviceGuard is what libvirt's hook found, when a VM started, about device
// nodes in its folders: virtiofsd has CAP_MKNOD and makes what the guest's root
// asks for, unless a cgroup forbids it. The mount is nodev, but the same folder
// is seen on this machine without it.
type DeviceGuard struct {
	Version int    `json:"version"`
	Boot    string `json:"boot"`   // of this machine
	Domain  int    `json:"domain"` // libvirt's id of the VM while it runs
	Open    string `json:"open"`   // why virtiofsd may make device nodes; "" if it cannot
	// Cgroups are those whose processes are kept from it, with all below them.
	Cgroups []string `json:"cgroups,omitempty"`
}

// Read returns what was found when the VM started last;
// fs.ErrNotExist if that was not in this boot of the machine, or without the
// hook. Any user may ask.
func Read(vmKey string) (DeviceGuard, error) {
	var g DeviceGuard
	if err := manifest.Read(rootfile.DeviceGuardPath(vmKey), &g); err != nil {
		return g, err
	}
	if g.Version != manifest.Version {
		return g, manifest.VersionError(rootfile.DeviceGuardPath(vmKey), g.Version)
	}
	if g.Boot != virtiofsd.BootID() {
		return g, fmt.Errorf("%s: it is of an earlier boot: %w", rootfile.DeviceGuardPath(vmKey), fs.ErrNotExist)
	}
	return g, nil
}

// Noted reports whether something was written down at a start of the
// VM, in whatever boot. It goes with the VM's export root.
func Noted(vmKey string) bool {
	_, err := os.Lstat(rootfile.DeviceGuardPath(vmKey))
	return err == nil
}

// Forget removes what was found at the VM's last start: it is about to
// start again.
func Forget(owner int, vm string) {
	if key := rootfile.VMKey(owner, vm); rootfile.ValidVMKey(key) {
		_ = os.Remove(rootfile.DeviceGuardPath(key))
	}
}

// Guard keeps the daemons of a VM that has started from making device
// nodes, and writes down whether that is so; domain is libvirt's id of it, "" for
// a definition without a running VM. It keeps no VM from running.
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
		fmt.Fprintf(os.Stderr, "aivm: the guest's root can make device nodes in the folders of VM %s: %v\n", vm, err)
	}
	if err := manifest.Write(rootfile.DeviceGuardPath(key), g); err != nil {
		fmt.Fprintf(os.Stderr, "aivm: %v\n", err)
	}
}

// startedDaemons returns the virtiofsd processes libvirt started for the running
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
			continue // it ended meanwhile
		}
		parent, err := strconv.Atoi(v[0])
		if pid, perr := strconv.Atoi(filepath.Base(p)); err == nil && perr == nil && parents[parent] {
			out = append(out, pid)
		}
	}
	return out, nil
}

// guardDevices keeps the daemons of a running domain from making device nodes,
// and those that libvirt starts for it later, with a folder that is attached. It
// returns the cgroups that forbid it; an error says why nothing does.
func guardDevices(id int, name string) (cgroups []string, err error) {
	pids, err := startedDaemons(id)
	if err != nil {
		return nil, err
	}
	daemons, err := virtiofsd.NewDaemonTest()
	if err != nil {
		return nil, err
	}
	pids = slices.DeleteFunc(pids, func(pid int) bool { return !daemons.Roots(pid) })
	if len(pids) == 0 {
		// Later daemons come into the VM's cgroup, which QEMU is in by now. Where
		// libvirt made none, DeviceGuard.Holds finds them unguarded.
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
			continue // it ended, or cannot
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

// An UnseenError says why it is not known whether device nodes can be made.
type UnseenError struct{ Why error }

func (e *UnseenError) Error() string { return e.Why.Error() }

func (e *UnseenError) Unwrap() error { return e.Why }

// Holds says why the guest's root may be able to make device nodes now, in the
// running domain with this id; nil if it cannot, an UnseenError if that is not
// known. Daemons that were started since, with folders of their own, must be in
// the cgroups that the hook saw to. Any user may ask.
func (g DeviceGuard) Holds(domain int) error {
	if g.Domain != domain {
		return &UnseenError{errors.New("the VM was started since without aivm's hook")}
	}
	if g.Open != "" {
		return errors.New(g.Open)
	}
	pids, err := startedDaemons(g.Domain)
	if err != nil {
		return &UnseenError{err}
	}
	if len(pids) == 0 && len(g.Cgroups) > 0 {
		return &UnseenError{fmt.Errorf("no virtiofsd of the VM's is noted in %s", virtiofsd.LibvirtState)}
	}
	for _, pid := range pids {
		may, err := hasMknod(pid)
		if err != nil && ended(pid) || err == nil && !may {
			continue
		}
		if err != nil {
			return &UnseenError{fmt.Errorf("virtiofsd (process %d) cannot be seen: %w", pid, err)}
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
			return fmt.Errorf("virtiofsd (process %d) was started since the VM was and has CAP_MKNOD; it is seen to at the next start of the VM", pid)
		}
	}
	return nil
}

// ended reports whether there is no process of that number. One that is hidden
// from who asks (hidepid of proc(5)) is there.
func ended(pid int) bool { return errors.Is(unix.Kill(pid, 0), unix.ESRCH) }
