package host

import (
	"fmt"

	"aivm.dev/aivm/internal/ui"
)

// Accel returns libvirt's domain type for this machine ("kvm" or "qemu") and,
// for emulation, the one warning a person has to see.
func Accel(f Facts) (typ, warning string) {
	if f.KVM.Usable {
		return "kvm", ""
	}
	return "qemu", "the VM is emulated, about ten times slower than with KVM: " + f.KVM.Reason
}

// Size is how large a VM is; 0 in a wish means "choose".
type Size struct{ CPUs, RAMMB, DiskGB int }

// What the smallest useful guest needs.
const (
	minRAMMB  = 512
	minDiskGB = 4
)

// Tiers of 0.3: the first whose limit holds is taken.
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

// Choose fills in what the wish leaves open and checks the rest against the
// machine. Disks are thin, so a wished disk may exceed the free space, with a
// warning; a chosen one never does. diskDir is where the disk will lie.
func Choose(f Facts, wish Size, diskDir string) (Size, []string, error) {
	got := wish
	var warnings, reasons []string
	var hints []ui.Hint
	impossible := func(hint ui.Hint, format string, args ...any) {
		reasons = append(reasons, fmt.Sprintf(format, args...))
		hints = append(hints, hint)
	}

	switch {
	case wish.CPUs == 0:
		// 0.3 gave a machine with two CPUs a VM with one. Virtual CPUs are
		// threads, not a reservation, and an editor's server beside a compiler
		// wants two.
		got.CPUs = min(max(pick(cpuTiers, f.CPUs), 2), max(f.CPUs, 1))
	case wish.CPUs < 0 || wish.CPUs > f.CPUs:
		impossible(ui.Remark(fmt.Sprintf("ask for 1 to %d CPUs, or 0 to let aivm choose", f.CPUs)),
			"%d CPUs were asked for and the machine has %d", wish.CPUs, f.CPUs)
	}

	switch {
	case f.MemErr != nil && wish.RAMMB == 0:
		impossible(ui.Remark("give the memory yourself, in MiB"), "the machine's memory is not known (%v)", f.MemErr)
	case wish.RAMMB == 0:
		got.RAMMB = min(pick(ramTiers, f.MemTotalMB), f.MemAvailMB*3/4/256*256)
		if got.RAMMB < minRAMMB {
			impossible(ui.CmdFor("close some programs, or shut down another VM", "aivm list"),
				"only %d MiB of memory are free, a VM needs %d", f.MemAvailMB, minRAMMB)
		}
	case wish.RAMMB < minRAMMB:
		impossible(ui.Remark(fmt.Sprintf("ask for at least %d MiB, or 0 to let aivm choose", minRAMMB)),
			"%d MiB of memory were asked for and a VM needs %d", wish.RAMMB, minRAMMB)
	case f.MemErr == nil && wish.RAMMB > f.MemTotalMB:
		impossible(ui.Remark(fmt.Sprintf("ask for less than %d MiB, or 0 to let aivm choose", f.MemTotalMB)),
			"%d MiB of memory were asked for and the machine has %d", wish.RAMMB, f.MemTotalMB)
	case f.MemErr == nil && wish.RAMMB > f.MemAvailMB:
		warnings = append(warnings, fmt.Sprintf("the VM may use %d MiB of memory and only %d are free now: the host may start to swap or stop programs",
			wish.RAMMB, f.MemAvailMB))
	}

	free, err := f.DiskFreeGB(diskDir)
	switch {
	case err != nil && wish.DiskGB == 0:
		impossible(ui.Remark("give the size of the disk yourself, in GiB"), "the free space at %s is not known (%v)", ui.Clean(diskDir), err)
	case wish.DiskGB != 0 && wish.DiskGB < minDiskGB:
		impossible(ui.Remark(fmt.Sprintf("ask for at least %d GiB, or 0 to let aivm choose", minDiskGB)),
			"a disk of %d GiB was asked for and a VM needs %d", wish.DiskGB, minDiskGB)
	case err == nil && free < minDiskGB:
		impossible(ui.CmdFor("make room there", "df -h "+ui.Clean(diskDir)),
			"only %d GiB are free at %s, a VM needs %d", free, ui.Clean(diskDir), minDiskGB)
	case wish.DiskGB == 0:
		got.DiskGB = min(pick(diskTiers, free), max(free*3/4, minDiskGB))
	case err == nil && wish.DiskGB > free:
		warnings = append(warnings, fmt.Sprintf("the VM's disk may grow to %d GiB and only %d are free at %s: writes in the guest fail when it is full",
			wish.DiskGB, free, ui.Clean(diskDir)))
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
