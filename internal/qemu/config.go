package qemu

import (
	"fmt"
	"os"
	"regexp"
	"strings"
)

// Config describes one VM. The sockets (Ports, NIC) belong to Start, which closes
// this process's descriptors of them; the other files stay the caller's.
type Config struct {
	Program Program // from Probe
	Accel   string  // "kvm" or "tcg"
	CPU     string  // value of -cpu
	// MachineType is a versioned type; "" stands for Program.Machine.
	MachineType string
	MemoryMiB   int
	CPUs        int
	// RAM backs the guest's memory and has its size. It must not be on a tmpfs:
	// pages that a private mapping touches would be allocated there.
	RAM *os.File
	// ShareRAM writes the guest's memory to RAM: for a VM that will be saved.
	// Otherwise the mapping is private and RAM does not change.
	ShareRAM bool
	// Kernel, Initrd and Append are for a direct boot. A resume needs none of them.
	Kernel, Initrd, Append string
	// InitrdFile is used in place of Initrd.
	InitrdFile *os.File
	// Disk lists the layers of the disk, the lowest first. The last one is written
	// to, the others are opened read-only.
	Disk  []Layer
	Ports []Port
	NIC   *NIC
	// Incoming starts QEMU for Resume.
	Incoming bool
	// SpareSlots is the number of PCI slots for devices that are hot-plugged.
	SpareSlots int
	// Log receives the guest's serial console; nil discards it.
	Log *os.File
	// MaxFile limits the size of every file that QEMU writes, in bytes; 0 does not.
	MaxFile int64
}

// Layer is one image of a disk.
type Layer struct {
	File   *os.File
	Format string // "qcow2" or "raw"
}

// Port is a virtio-serial port: its name in the guest, and QEMU's end of a socket
// pair.
type Port struct {
	Name string
	File *os.File
}

// NIC is a network card. Frames on Socket have a length of four bytes, big endian,
// before them.
type NIC struct {
	Socket *os.File
	MAC    string
	MTU    int
}

// Bounds of a Config. MinMemoryMiB is what a kernel and its initrd need.
const (
	MinMemoryMiB = 128
	maxMemoryMiB = 1 << 20
	maxCPUs      = 255
	maxPorts     = 16
	maxSlots     = 8
)

var (
	portName = regexp.MustCompile(`^[a-z][a-z0-9.-]{0,30}$`)
	macForm  = regexp.MustCompile(`^[0-9a-f]{2}(:[0-9a-f]{2}){5}$`)
	cpuForm  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.,=+-]{0,200}$`)
	typeForm = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{0,60}$`)
)

// check returns what makes a Config unusable.
func (c *Config) check() error {
	switch {
	case c.Program.Path == "":
		return fmt.Errorf("no QEMU program given")
	case c.Accel != "kvm" && c.Accel != "tcg":
		return fmt.Errorf("unknown accelerator %q", c.Accel)
	case !cpuForm.MatchString(c.CPU):
		return fmt.Errorf("%q is not a CPU model", c.CPU)
	case !typeForm.MatchString(c.machine()):
		return fmt.Errorf("%q is not a machine type", c.machine())
	case c.MemoryMiB < MinMemoryMiB || c.MemoryMiB > maxMemoryMiB:
		return fmt.Errorf("%d MiB of memory: need %d to %d", c.MemoryMiB, MinMemoryMiB, maxMemoryMiB)
	case c.CPUs < 1 || c.CPUs > maxCPUs:
		return fmt.Errorf("%d CPUs: need 1 to %d", c.CPUs, maxCPUs)
	case c.RAM == nil:
		return fmt.Errorf("no file for the guest's memory")
	case len(c.Ports) > maxPorts:
		return fmt.Errorf("%d ports: at most %d", len(c.Ports), maxPorts)
	case c.SpareSlots < 0 || c.SpareSlots > maxSlots:
		return fmt.Errorf("%d spare slots: at most %d", c.SpareSlots, maxSlots)
	case !c.Incoming && c.Kernel == "":
		return fmt.Errorf("no kernel to boot")
	}
	for _, s := range []string{c.Kernel, c.Initrd, c.Append} {
		if strings.ContainsAny(s, "\x00\n") {
			return fmt.Errorf("%q has a line break or a NUL", s)
		}
	}
	for _, l := range c.Disk {
		if l.Format != "qcow2" && l.Format != "raw" {
			return fmt.Errorf("unknown disk format %q", l.Format)
		}
		if l.File == nil {
			return fmt.Errorf("a layer of the disk has no file")
		}
	}
	for _, p := range c.Ports {
		if !portName.MatchString(p.Name) || p.File == nil {
			return fmt.Errorf("%q is not a port with a socket", p.Name)
		}
	}
	if c.NIC != nil {
		return c.NIC.check()
	}
	return nil
}

func (n *NIC) check() error {
	switch {
	case n.Socket == nil:
		return fmt.Errorf("the network card has no socket")
	case !macForm.MatchString(n.MAC):
		return fmt.Errorf("%q is not a MAC address", n.MAC)
	case n.MTU < 576 || n.MTU > 65535:
		return fmt.Errorf("MTU %d: need 576 to 65535", n.MTU)
	}
	return nil
}

// machine is the machine type that is used.
func (c *Config) machine() string {
	if c.MachineType != "" {
		return c.MachineType
	}
	return c.Program.Machine
}

// closeSockets closes the descriptors that Start takes over.
func (c *Config) closeSockets() {
	for _, p := range c.Ports {
		if p.File != nil {
			_ = p.File.Close()
		}
	}
	if c.NIC != nil && c.NIC.Socket != nil {
		_ = c.NIC.Socket.Close()
	}
}
