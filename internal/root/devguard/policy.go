package devguard

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// devicePolicies counts the device policies attached to a cgroup.
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

// attachDeny attaches the policy to a cgroup, in addition to existing ones.
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

// denyProgram loads a program of type BPF_PROG_TYPE_CGROUP_DEVICE that refuses mknod. Its
// context (struct bpf_cgroup_dev_ctx in linux/bpf.h) begins with a 32-bit word whose
// upper half is the kind of access; the lowest bit of that is BPF_DEVCG_ACC_MKNOD.
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
	var pinned runtime.Pinner // the kernel gets the addresses as integers
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
