package qemu

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"strconv"
	"strings"
)

// firstFD is the number of a child's first inherited file; QMP uses it.
const firstFD = 3

// sandbox is QEMU's seccomp filter: no obsolete calls, no more privileges, no other
// programs, no change of priorities.
const sandbox = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

// arguments collects a command line and the files that it names by number.
type arguments struct {
	argv  []string
	files []*os.File
}

func (a *arguments) add(args ...string) { a.argv = append(a.argv, args...) }

// inherit returns the number that f will have in the child.
func (a *arguments) inherit(f *os.File) int {
	a.files = append(a.files, f)
	return firstFD + len(a.files) - 1
}

// path names an inherited file where QEMU accepts only a name.
func (a *arguments) path(f *os.File) string {
	return "/proc/self/fd/" + strconv.Itoa(a.inherit(f))
}

// arguments returns the command line of a VM and the files that the child inherits,
// qmp first. It touches nothing.
func (c *Config) arguments(qmp *os.File) arguments {
	var a arguments
	x86 := c.Program.Arch == "x86_64"
	a.add(c.Program.Path, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-sandbox", sandbox, "-name", "aivm-run",
		"-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", a.inherit(qmp)), "-mon", "chardev=qmp,mode=control")

	machine := c.machine() + ",memory-backend=ram"
	if x86 {
		machine += ",usb=off,hpet=off,graphics=off,vmport=off"
	}
	a.add("-machine", machine, "-accel", c.Accel, "-cpu", c.CPU, "-smp", strconv.Itoa(c.CPUs),
		"-m", strconv.Itoa(c.MemoryMiB)+"M", "-object", fmt.Sprintf("memory-backend-file,id=ram,size=%dM,mem-path=%s,share=%s",
			c.MemoryMiB, a.path(c.RAM), onOff(c.ShareRAM)))

	if c.Incoming {
		a.add("-incoming", "defer")
	} else {
		a.add("-kernel", c.Kernel)
		switch {
		case c.InitrdFile != nil:
			a.add("-initrd", a.path(c.InitrdFile))
		case c.Initrd != "":
			a.add("-initrd", c.Initrd)
		}
		a.add("-append", c.Append)
	}
	a.add("-S")

	if c.Log != nil {
		a.add("-chardev", "file,id=log,append=on,path="+a.path(c.Log))
	} else {
		a.add("-chardev", "null,id=log")
	}
	a.add("-serial", "chardev:log")

	// Every device has its place on the bus, so that a resume finds the same one
	// whatever the order of options.
	a.add("-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng,addr=2")
	if x86 {
		a.add("-device", "vmgenid,guid=auto")
	}
	a.add("-device", fmt.Sprintf("virtio-serial-pci,id=serial,max_ports=%d,addr=3", maxPorts+1))
	for i, p := range c.Ports {
		a.add("-chardev", fmt.Sprintf("socket,id=port%d,fd=%d", i, a.inherit(p.File)),
			"-device", fmt.Sprintf("virtserialport,bus=serial.0,nr=%d,chardev=port%d,name=%s", i+1, i, p.Name))
	}
	for i := range c.SpareSlots {
		a.add("-device", fmt.Sprintf("pcie-root-port,id=%s,chassis=%d,slot=%d,addr=%x", slotID(i), i+1, i+1, 8+i))
	}
	c.addDisk(&a)
	if c.NIC != nil {
		a.add("-netdev", fmt.Sprintf("socket,id=net0,fd=%d", a.inherit(c.NIC.Socket)),
			"-device", fmt.Sprintf("virtio-net-pci,netdev=net0,id=nic0,mac=%s,host_mtu=%d,romfile=,addr=5", c.NIC.MAC, c.NIC.MTU))
	}
	return a
}

// addDisk adds the layers as nodes, each with the one below it, and the disk. The
// locks of image files are off: a lower layer is read by many runs and written by
// none, and the top one has no name.
func (c *Config) addDisk(a *arguments) {
	if len(c.Disk) == 0 {
		return
	}
	below := "" // none, whatever the image's header names
	for i, l := range c.Disk {
		top := i == len(c.Disk)-1
		// No flush: nothing of a run outlives the machine, and a template is synced
		// when it is complete.
		node := func(driver, name string, more map[string]any) {
			m := map[string]any{"driver": driver, "node-name": name, "read-only": !top, "discard": "unmap", "cache": map[string]any{"no-flush": true}}
			maps.Copy(m, more)
			b, err := json.Marshal(m)
			if err != nil {
				panic(err) // strings and booleans only
			}
			a.add("-blockdev", string(b))
		}
		file, disk := fmt.Sprintf("file%d", i), fmt.Sprintf("disk%d", i)
		node("file", file, map[string]any{"filename": a.path(l.File), "locking": "off"})
		more := map[string]any{"file": file}
		if l.Format == "qcow2" {
			if more["backing"] = nil; i > 0 {
				more["backing"] = below
			}
		}
		node(l.Format, disk, more)
		below = disk
	}
	// A full disk of the host is an error in the guest; QEMU's default is to stop the
	// guest and wait.
	a.add("-device", "virtio-blk-pci,drive="+below+",id=vda,addr=4,werror=report,rerror=report")
}

// slotID names a spare PCI slot.
func slotID(i int) string { return "spare" + strconv.Itoa(i) }

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

var inheritedFile = regexp.MustCompile(`(fd=|/proc/self/fd/)\d+`)

// Shape returns what of a command line a saved VM depends on beside the program: the
// devices and their order. Files, the boot and the disk's layers are not in it.
func Shape(c Config) string {
	c.Incoming, c.Log, c.NIC, c.Disk = true, nil, nil, []Layer{{Format: "qcow2"}}
	a := c.arguments(nil)
	return inheritedFile.ReplaceAllString(strings.Join(a.argv[1:], "\n"), "${1}N")
}
