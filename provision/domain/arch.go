package domain

import (
	"fmt"

	"libvirt.org/go/libvirtxml"
)

// archDevices are the parts of a definition that depend on the architecture.
type archDevices struct {
	os       *libvirtxml.DomainOS
	features *libvirtxml.DomainFeatureList
	cpu      *libvirtxml.DomainCPU
	timers   []libvirtxml.DomainTimer
	pm       *libvirtxml.DomainPM
}

func archSettings(arch, accel string) (archDevices, error) {
	switch arch {
	case "", X86:
		return q35(accel), nil
	case ARM:
		return virt64(accel), nil
	}
	return archDevices{}, fmt.Errorf("aivm has no definition of a VM for the architecture %q", arch)
}

func operatingSystem(arch, machine string) *libvirtxml.DomainOS {
	return &libvirtxml.DomainOS{
		Type:        &libvirtxml.DomainOSType{Arch: arch, Machine: machine, Type: "hvm"},
		BootDevices: []libvirtxml.DomainBootDevice{{Dev: "hd"}},
	}
}

func q35(accel string) archDevices {
	off := &libvirtxml.DomainPMPolicy{Enabled: "no"}
	b := archDevices{
		os:       operatingSystem(X86, "q35"),
		features: &libvirtxml.DomainFeatureList{ACPI: &libvirtxml.DomainFeature{}, APIC: &libvirtxml.DomainFeatureAPIC{}},
		cpu:      emulated(),
		timers:   []libvirtxml.DomainTimer{{Name: "hpet", Present: "no"}},
		pm:       &libvirtxml.DomainPM{SuspendToMem: off, SuspendToDisk: off},
	}
	if accel == "kvm" {
		b.cpu = &libvirtxml.DomainCPU{Mode: "host-passthrough", Check: "none", Migratable: "on"}
		b.timers = append(b.timers, libvirtxml.DomainTimer{Name: "rtc", TickPolicy: "catchup"}, libvirtxml.DomainTimer{Name: "pit", TickPolicy: "delay"})
	}
	return b
}

// virt64 returns the settings for 64-bit ARM. No such VM was ever booted in aivm's tests;
// what is left out, and why, comes from libvirt's sources and documentation.
//
//   - UEFI: QEMU's virt machine has no firmware of its own, and libvirt refuses
//     ACPI without UEFI there (src/qemu/qemu_domain.c, "ACPI requires UEFI on
//     this architecture"). With firmware='efi' libvirt chooses an installed
//     one, since 5.2 (formatdomain, "BIOS bootloader").
//   - No <gic>: without one libvirt uses the newest version that the
//     accelerator offers, and version 2 under emulation, because of MSI
//     (qemuDomainDefEnableDefaultFeatures).
//   - No <apic> and no timers: they exist on x86 only; the ARM timer is always
//     present.
//   - No <pm>: it is a property of PIIX4 and ICH9 ("setting ACPI S3 not
//     supported", qemuValidateDomainDefPM).
//   - No migratable='on': libvirt refuses it where QEMU's CPU has no such
//     property, as on ARM (qemuValidateDomainDefCpu).
//   - Buses: virtio and PCIe root ports, which the machine has; it has no IDE
//     and no SATA. The serial port is a PL011 by default.
func virt64(accel string) archDevices {
	b := archDevices{
		os:       operatingSystem(ARM, "virt"),
		features: &libvirtxml.DomainFeatureList{ACPI: &libvirtxml.DomainFeature{}},
		cpu:      emulated(),
	}
	b.os.Firmware = "efi"
	if accel == "kvm" {
		b.cpu = &libvirtxml.DomainCPU{Mode: "host-passthrough", Check: "none"}
	}
	return b
}

// emulated returns a CPU with every feature that QEMU's emulation has, including the AES
// instructions.
func emulated() *libvirtxml.DomainCPU {
	return &libvirtxml.DomainCPU{Mode: "maximum", Check: "none"}
}
