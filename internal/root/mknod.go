package root

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/root/mountinfo"
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

func deviceGuardPath(vmKey string) string { return filepath.Join(ManifestDir, "devices-"+vmKey) }

// ReadDeviceGuard returns what was found when the VM started last;
// fs.ErrNotExist if that was not in this boot of the machine, or without the
// hook. Any user may ask.
func ReadDeviceGuard(vmKey string) (DeviceGuard, error) {
	var g DeviceGuard
	if err := readManifest(deviceGuardPath(vmKey), &g); err != nil {
		return g, err
	}
	if g.Version != manifestVersion {
		return g, versionError(deviceGuardPath(vmKey), g.Version)
	}
	if g.Boot != bootID() {
		return g, fmt.Errorf("%s: it is of an earlier boot: %w", deviceGuardPath(vmKey), fs.ErrNotExist)
	}
	return g, nil
}

// DeviceGuardNoted reports whether something was written down at a start of the
// VM, in whatever boot. It goes with the VM's export root.
func DeviceGuardNoted(vmKey string) bool {
	_, err := os.Lstat(deviceGuardPath(vmKey))
	return err == nil
}

// forgetDevices removes what was found at the VM's last start: it is about to
// start again.
func forgetDevices(owner int, vm string) {
	if key := VMKey(owner, vm); vmKeyRE.MatchString(key) {
		_ = os.Remove(deviceGuardPath(key))
	}
}

// hookDevices keeps the daemons of a VM that has started from making device
// nodes, and writes down whether that is so. It keeps no VM from running.
func hookDevices(owner int, vm string, d hooked) {
	key := VMKey(owner, vm)
	if !vmKeyRE.MatchString(key) {
		return
	}
	id, err := strconv.Atoi(d.ID)
	if err != nil {
		return // a definition without a running VM
	}
	g := DeviceGuard{Version: manifestVersion, Boot: bootID(), Domain: id}
	if g.Cgroups, err = guardDevices(id, vm); err != nil {
		g.Open = err.Error()
		fmt.Fprintf(os.Stderr, "aivm: the guest's root can make device nodes in the folders of VM %s: %v\n", vm, err)
	}
	if err := writeManifest(deviceGuardPath(key), g); err != nil {
		fmt.Fprintf(os.Stderr, "aivm: %v\n", err)
	}
}

// startedDaemons returns the virtiofsd processes libvirt started for the running
// domain: those in its pid files, and their children, which serve the guest.
func startedDaemons(id int) ([]int, error) {
	files, err := libvirtPIDs(strconv.Itoa(id) + "-*-fs.pid")
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
		v, err := statusField(p, "PPid:")
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
	daemons, err := newDaemonTest()
	if err != nil {
		return nil, err
	}
	pids = slices.DeleteFunc(pids, func(pid int) bool { return !daemons.roots(pid) })
	if len(pids) == 0 {
		// Later daemons come into the VM's cgroup, which QEMU is in by now. Where
		// libvirt made none, DeviceGuard.Holds finds them unguarded.
		qemu, err := libvirtPIDs(name + ".pid")
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
		return &UnseenError{fmt.Errorf("no virtiofsd of the VM's is noted in %s", libvirtState)}
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

// hasMknod reports whether a process has, or can get, CAP_MKNOD. The kernel
// honours it in the first user namespace alone.
func hasMknod(pid int) (bool, error) {
	proc := fmt.Sprintf("/proc/%d", pid)
	for _, set := range []string{"CapPrm:", "CapEff:", "CapInh:", "CapBnd:"} {
		v, err := statusField(proc, set)
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

// devicePolicies counts the device policies of a cgroup.
func devicePolicies(dir string) (int, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	query := struct {
		target, kind, flags, attached uint32
		ids                           uint64
		count, _                      uint32
	}{target: uint32(fd), kind: unix.BPF_CGROUP_DEVICE}
	if _, err := bpf(unix.BPF_PROG_QUERY, unsafe.Pointer(&query), unsafe.Sizeof(query)); err != nil {
		return 0, fmt.Errorf("reading the device policies of %s: %w", dir, err)
	}
	return int(query.count), nil
}

// attachDeny attaches the policy to a cgroup; one that is there stays.
func attachDeny(dir string) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	prog, err := denyProgram()
	if err != nil {
		return err
	}
	defer unix.Close(prog)
	attach := struct{ target, prog, kind, flags uint32 }{uint32(fd), uint32(prog), unix.BPF_CGROUP_DEVICE, unix.BPF_F_ALLOW_MULTI}
	if _, err := bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&attach), unsafe.Sizeof(attach)); err != nil {
		return fmt.Errorf("attaching a device policy to %s: %w", dir, err)
	}
	return nil
}

// denyProgram loads a program of BPF_PROG_TYPE_CGROUP_DEVICE: its argument
// begins with the kind of access in the upper half of 32 bits (struct
// bpf_cgroup_dev_ctx in linux/bpf.h), of which BPF_DEVCG_ACC_MKNOD is the first.
func denyProgram() (int, error) {
	type insn struct {
		code, regs uint8 // regs: source in the upper half
		off        int16
		imm        int32
	}
	program := []insn{
		{code: 0x61, regs: 0x12},          // r2 = *(u32 *)(r1 + 0)
		{code: 0x77, regs: 0x02, imm: 16}, // r2 >>= 16
		{code: 0x57, regs: 0x02, imm: 1},  // r2 &= BPF_DEVCG_ACC_MKNOD
		{code: 0xb7, regs: 0x00, imm: 1},  // r0 = 1: allowed
		{code: 0x15, regs: 0x02, off: 1},  // if r2 == 0 skip the next
		{code: 0xb7, regs: 0x00, imm: 0},  // r0 = 0: refused
		{code: 0x95},                      // exit
	}
	license := []byte("MIT\x00")
	var pinned runtime.Pinner // the kernel gets addresses as numbers
	defer pinned.Unpin()
	pinned.Pin(&program[0])
	pinned.Pin(&license[0])
	load := struct {
		kind, count       uint32
		insns, license    uint64
		logLevel, logSize uint32
		log               uint64
		version, flags    uint32
	}{
		kind: unix.BPF_PROG_TYPE_CGROUP_DEVICE, count: uint32(len(program)),
		insns: uint64(uintptr(unsafe.Pointer(&program[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0]))),
	}
	fd, err := bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&load), unsafe.Sizeof(load))
	if err != nil {
		return -1, fmt.Errorf("loading a device policy into the kernel: %w", err)
	}
	unix.CloseOnExec(fd)
	return fd, nil
}

func bpf(cmd int, attr unsafe.Pointer, size uintptr) (int, error) {
	r, _, e := unix.Syscall(unix.SYS_BPF, uintptr(cmd), uintptr(attr), size)
	if e != 0 {
		return -1, e
	}
	return int(r), nil
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
