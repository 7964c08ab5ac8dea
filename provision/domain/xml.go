package domain

import (
	"libvirt.org/go/libvirtxml"

	"aivm.dev/aivm/internal/virt"
)

// Serials of the two disks. aivm finds the disks by them, whatever device name the guest
// or libvirt uses.
const (
	DiskSerial = "aivm-disk"
	SeedSerial = "aivm-seed"
)

// SparePorts is how many PCIe devices can be hot-plugged later: 24 shared folders, the
// documented limit, and two more.
const SparePorts = 26

// fixedPorts are the root ports taken by the devices of the first definition.
const fixedPorts = 8

// Architectures of a guest, as libvirt names them.
const (
	X86 = "x86_64"
	ARM = "aarch64"
)

// Arch returns libvirt's name of a GOARCH; "" if aivm has no VMs for it.
func Arch(goarch string) string {
	return map[string]string{"amd64": X86, "arm64": ARM}[goarch]
}

// Spec has the values that the definition of a VM depends on.
type Spec struct {
	Name, UUID string
	Owner      int
	Arch       string // X86 or ARM; "" = X86
	Accel      string // "kvm" or "qemu"
	Emulator   string // path of the QEMU binary, "" lets libvirt choose
	VCPUs      int
	RAMMB      int
	DiskPath   string
	SeedPath   string // "" = no seed
	SerialLog  string
	ExportRoot string // source of the virtiofs device, "" = none
	FSTag      string
	Network    string
	MAC        string
}

// XML returns the definition of the domain in its final form. aivm never redefines it,
// because libvirtxml drops elements it does not know. So it has everything folders,
// snapshots and agents will need from the first boot.
func XML(s Spec) (string, error) {
	u := func(v uint) *uint { return &v }
	m, err := archSettings(s.Arch, s.Accel)
	if err != nil {
		return "", err
	}
	x := libvirtxml.Domain{
		Type: s.Accel, Name: s.Name, UUID: s.UUID,
		Metadata: &libvirtxml.DomainMetadata{XML: virt.MarkXML(s.Owner)},
		Memory:   &libvirtxml.DomainMemory{Value: uint(s.RAMMB), Unit: "MiB"},
		// virtiofs needs shared memory, which cannot be added to a running VM.
		MemoryBacking: &libvirtxml.DomainMemoryBacking{
			MemorySource: &libvirtxml.DomainMemorySource{Type: "memfd"},
			MemoryAccess: &libvirtxml.DomainMemoryAccess{Mode: "shared"},
		},
		VCPU:       &libvirtxml.DomainVCPU{Placement: "static", Value: uint(s.VCPUs)},
		OS:         m.os,
		Features:   m.features,
		CPU:        m.cpu,
		Clock:      &libvirtxml.DomainClock{Offset: "utc", Timer: m.timers},
		OnPoweroff: "destroy", OnReboot: "restart", OnCrash: "destroy",
		PM: m.pm,
	}
	d := &libvirtxml.DomainDeviceList{Emulator: s.Emulator}
	d.Disks = []libvirtxml.DomainDisk{{
		Device: "disk",
		Driver: &libvirtxml.DomainDiskDriver{Name: "qemu", Type: "qcow2", Discard: "unmap"},
		Source: &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: s.DiskPath}},
		Target: &libvirtxml.DomainDiskTarget{Dev: "vda", Bus: "virtio"},
		Serial: DiskSerial,
	}}
	if s.SeedPath != "" {
		d.Disks = append(d.Disks, libvirtxml.DomainDisk{
			// virtio-blk, not a CD-ROM: the kernels of cloud images have no AHCI driver.
			Device:   "disk",
			Driver:   &libvirtxml.DomainDiskDriver{Name: "qemu", Type: "raw"},
			Source:   &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: s.SeedPath}},
			Target:   &libvirtxml.DomainDiskTarget{Dev: "vdb", Bus: "virtio"},
			ReadOnly: &libvirtxml.DomainDiskReadOnly{},
			Serial:   SeedSerial,
		})
	}
	d.Controllers = []libvirtxml.DomainController{
		{Type: "usb", Model: "none"},
		{Type: "pci", Model: "pcie-root", Index: u(0)},
	}
	for i := uint(1); i <= fixedPorts+SparePorts; i++ {
		d.Controllers = append(d.Controllers, libvirtxml.DomainController{Type: "pci", Model: "pcie-root-port", Index: u(i)})
	}
	if s.ExportRoot != "" {
		d.Filesystems = []libvirtxml.DomainFilesystem{shareDevice(s.ExportRoot, s.FSTag)}
	}
	d.Interfaces = []libvirtxml.DomainInterface{{
		MAC:    &libvirtxml.DomainInterfaceMAC{Address: s.MAC},
		Source: &libvirtxml.DomainInterfaceSource{Network: &libvirtxml.DomainInterfaceSourceNetwork{Network: s.Network}},
		Model:  &libvirtxml.DomainInterfaceModel{Type: "virtio"},
		// Isolated ports cannot exchange packets on the bridge.
		PortOptions: &libvirtxml.DomainInterfacePortOptions{Isolated: "yes"},
	}}
	d.Serials = []libvirtxml.DomainSerial{{
		Source: &libvirtxml.DomainChardevSource{Pty: &libvirtxml.DomainChardevSourcePty{}},
		Target: &libvirtxml.DomainSerialTarget{Port: u(0)},
		Log:    &libvirtxml.DomainChardevLog{File: s.SerialLog, Append: "off"},
	}}
	d.Channels = []libvirtxml.DomainChannel{{
		Source: &libvirtxml.DomainChardevSource{UNIX: &libvirtxml.DomainChardevSourceUNIX{Mode: "bind"}},
		Target: &libvirtxml.DomainChannelTarget{VirtIO: &libvirtxml.DomainChannelTargetVirtIO{Name: "org.qemu.guest_agent.0"}},
	}}
	d.RNGs = []libvirtxml.DomainRNG{{
		Model:   "virtio",
		Backend: &libvirtxml.DomainRNGBackend{Random: &libvirtxml.DomainRNGBackendRandom{Device: "/dev/urandom"}},
	}}
	d.MemBalloon = &libvirtxml.DomainMemBalloon{Model: "virtio", FreePageReporting: "on"}
	x.Devices = d
	return x.Marshal()
}

// shareDevice returns the virtiofs device that serves a VM's export directory.
func shareDevice(exportRoot, tag string) libvirtxml.DomainFilesystem {
	return libvirtxml.DomainFilesystem{
		AccessMode: "passthrough",
		Driver:     &libvirtxml.DomainFilesystemDriver{Type: "virtiofs", Queue: 1024},
		// No <cache>: libvirt knows only "none" and "always". Without it virtiofsd uses
		// its default "auto", which measured best for source trees.
		Source: &libvirtxml.DomainFilesystemSource{Mount: &libvirtxml.DomainFilesystemSourceMount{Dir: exportRoot}},
		Target: &libvirtxml.DomainFilesystemTarget{Dir: tag},
	}
}

// ShareDevice returns the XML of shareDevice, for a VM that was defined without it.
func ShareDevice(exportRoot, tag string) (string, error) {
	x := shareDevice(exportRoot, tag)
	return x.Marshal()
}
