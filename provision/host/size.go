package host

import (
	"fmt"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/internal/ui"
)

// Accel returns libvirt's domain type for this machine ("kvm" or "qemu") and, for emulation, a
// warning for the user.
func Accel(f Facts) (typ, warning string) {
	if f.KVM.Usable {
		return "kvm", ""
	}
	return "qemu", "the VM is emulated, about ten times slower than with KVM: " + f.KVM.Reason
}

// Size is the size of a VM; in a request, 0 means that aivm chooses.
type Size struct{ CPUs, RAMMB, DiskGB int }

// The least a usable guest needs.
const (
	minRAMMB  = 512
	minDiskGB = 4
)

// The tiers of aivm 0.3: the first one whose limit is not exceeded applies.
type tier struct{ limit, value int }

var (
	cpuTiers  = []tier{{2, 1}, {4, 2}, {8, 4}, {16, 6}, {1 << 30, 8}}
	ramTiers  = []tier{{4096, 2048}, {8192, 3072}, {16384, 4096}, {32768, 8192}, {1 << 30, 12288}}
	diskTiers = []tier{{32, 16}, {48, 24}, {64, 32}, {128, 40}, {1 << 30, 64}}
)

func pick(tiers []tier, have int) int {
	for _, t := range tiers {
		if have <= t.limit {
			return t.value
		}
	}
	return tiers[len(tiers)-1].value
}

// CheckSizes returns why a VM cannot have so many CPUs and MB of memory on this machine, or nil.
func (f Facts) CheckSizes(cpus, ramMB int) error {
	switch {
	case cpus > f.CPUs:
		return fmt.Errorf("%d CPUs, and this machine has %d", cpus, f.CPUs)
	case ramMB != 0 && ramMB < minRAMMB:
		return fmt.Errorf("%d MB of memory, and a VM needs %d", ramMB, minRAMMB)
	case f.MemErr == nil && ramMB > f.MemTotalMB:
		return fmt.Errorf("%d MB of memory, and this machine has %d", ramMB, f.MemTotalMB)
	}
	return nil
}

// Choose fills in the sizes that are 0 and checks the others against the host. Disks are thin, so a
// requested disk may exceed the free space, with a warning; a chosen one never does. diskDir is the
// directory of the disk.
func Choose(f Facts, request Size, diskDir string) (Size, []string, error) {
	got := request
	var warnings, reasons []string
	var hints []ui.Hint
	impossible := func(hint ui.Hint, format string, args ...any) {
		reasons = append(reasons, fmt.Sprintf(format, args...))
		hints = append(hints, hint)
	}

	switch {
	case request.CPUs == 0:
		// aivm 0.3 gave a VM one CPU on a machine with two. Virtual CPUs are threads, not a
		// reservation, and an editor's server beside a compiler needs two.
		got.CPUs = min(max(pick(cpuTiers, f.CPUs), 2), max(f.CPUs, 1))
	case request.CPUs < 0 || request.CPUs > f.CPUs:
		impossible(ui.Remark(fmt.Sprintf("request 1 to %d CPUs, or 0 to let aivm choose", f.CPUs)),
			"%d CPUs requested, this machine has %d", request.CPUs, f.CPUs)
	}

	switch {
	case f.MemErr != nil && request.RAMMB == 0:
		impossible(ui.Remark("request an amount of memory, in MiB"), "the memory of this machine is unknown (%v)", f.MemErr)
	case request.RAMMB == 0:
		got.RAMMB = min(pick(ramTiers, f.MemTotalMB), f.MemAvailMB*3/4/256*256)
		if got.RAMMB < minRAMMB {
			impossible(ui.CmdFor("close some programs, or shut down another VM", "aivm list"),
				"only %d MiB of memory free, a VM needs %d", f.MemAvailMB, minRAMMB)
		}
	case request.RAMMB < minRAMMB:
		impossible(ui.Remark(fmt.Sprintf("request at least %d MiB, or 0 to let aivm choose", minRAMMB)),
			"%d MiB of memory requested, a VM needs %d", request.RAMMB, minRAMMB)
	case f.MemErr == nil && request.RAMMB > f.MemTotalMB:
		impossible(ui.Remark(fmt.Sprintf("request less than %d MiB, or 0 to let aivm choose", f.MemTotalMB)),
			"%d MiB of memory requested, this machine has %d", request.RAMMB, f.MemTotalMB)
	case f.MemErr == nil && request.RAMMB > f.MemAvailMB:
		warnings = append(warnings, fmt.Sprintf("the VM may use %d MiB of memory, and only %d are free now: this machine may start to swap or kill processes",
			request.RAMMB, f.MemAvailMB))
	}

	free, err := f.DiskFreeGB(diskDir)
	switch {
	case err != nil && request.DiskGB == 0:
		impossible(ui.Remark("request a disk size, in GiB"), "the free space at %s is unknown (%v)", ui.Clean(diskDir), err)
	case request.DiskGB != 0 && request.DiskGB < minDiskGB:
		impossible(ui.Remark(fmt.Sprintf("request at least %d GiB, or 0 to let aivm choose", minDiskGB)),
			"a disk of %d GiB requested, a VM needs %d", request.DiskGB, minDiskGB)
	case err == nil && free < minDiskGB:
		impossible(ui.CmdFor("free up disk space", "df -h "+shellescape.Quote(ui.Clean(diskDir))),
			"only %d GiB free at %s, a VM needs %d", free, ui.Clean(diskDir), minDiskGB)
	case request.DiskGB == 0:
		got.DiskGB = min(pick(diskTiers, free), max(free*3/4, minDiskGB))
	case err == nil && request.DiskGB > free:
		warnings = append(warnings, fmt.Sprintf("the VM's disk may grow to %d GiB, and only %d are free at %s: writes in the guest fail when it is full",
			request.DiskGB, free, ui.Clean(diskDir)))
	}

	if len(reasons) > 0 {
		msg := reasons[0]
		for _, r := range reasons[1:] {
			msg += "; " + r
		}
		return Size{}, nil, ui.Refused("Requested VM resources are not feasible on this host right now: %s", msg).Hint(hints...)
	}
	return got, warnings, nil
}
