package host

import (
	"fmt"
	"strconv"
	"strings"

	"aivm.dev/aivm/internal/ui"
)

// machineFact is what kind of machine this is, as far as VMs care.
type machineFact struct {
	Sandbox    string // "toolbox", "distrobox", "flatpak": a shell inside something on the real system
	Guest      bool   // the CPU says that it is a VM's
	Maker      string // "VMware, Inc. VMware Virtual Platform"
	Nested     string // kvm_intel's or kvm_amd's parameter: "Y", "1", "N", "0"; "" where there is none
	NestedFile string
	CapsKnown  bool
	Lacks      []string // capabilities nobody in this container can get
	UserNS     bool     // user ids are mapped: a rootless container
	WSL1       bool
}

// capabilities that shares and networks need (linux/capability.h).
var capabilities = []struct {
	bit  uint
	name string
}{{12, "CAP_NET_ADMIN"}, {21, "CAP_SYS_ADMIN"}}

func machine(env Env, f Facts) machineFact {
	var m machineFact
	there := func(p string) bool { _, err := env.Stat(p); return err == nil }
	word := func(p string) string {
		b, err := env.Head(p, 256)
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(b))
	}
	switch {
	case there("/.flatpak-info"):
		m.Sandbox = "flatpak"
	case there("/run/.toolboxenv"):
		m.Sandbox = "toolbox"
	case env.Getenv("DISTROBOX_ENTER_PATH") != "" || env.Getenv("CONTAINER_ID") != "" && there("/run/.containerenv"):
		m.Sandbox = "distrobox"
	}
	if b, err := env.Head("/proc/cpuinfo", 1<<13); err == nil {
		for line := range strings.Lines(string(b)) {
			if k, v, _ := strings.Cut(line, ":"); strings.TrimSpace(k) == "flags" {
				m.Guest = strings.Contains(" "+strings.TrimSpace(v)+" ", " hypervisor ")
				break
			}
		}
	}
	m.Maker = strings.TrimSpace(ui.Clean(word("/sys/class/dmi/id/sys_vendor") + " " + word("/sys/class/dmi/id/product_name")))
	for _, mod := range []string{"kvm_intel", "kvm_amd"} {
		p := "/sys/module/" + mod + "/parameters/nested"
		if v := word(p); v != "" {
			m.Nested, m.NestedFile = v, p
		}
	}
	if b, err := env.Head("/proc/self/status", 1<<13); err == nil {
		for line := range strings.Lines(string(b)) {
			v, ok := strings.CutPrefix(line, "CapBnd:")
			if !ok {
				continue
			}
			if set, err := strconv.ParseUint(strings.TrimSpace(v), 16, 64); err == nil {
				m.CapsKnown = true
				for _, c := range capabilities {
					if set&(1<<c.bit) == 0 {
						m.Lacks = append(m.Lacks, c.name)
					}
				}
			}
		}
	}
	if w := strings.Fields(word("/proc/self/uid_map")); len(w) >= 3 {
		m.UserNS = w[0] != "0" || w[1] != "0" || w[2] != "4294967295"
	}
	// WSL 1 calls itself "4.4.0-19041-Microsoft", WSL 2 "...-microsoft-standard-WSL2".
	m.WSL1 = f.WSL && strings.HasSuffix(f.Kernel, "-Microsoft")
	return m
}

func checkSystem(f Facts, x Examination) Check {
	c := Check{ID: "system", Label: "System", State: OK, Detail: f.OS.Name}
	m := x.Machine
	c.saw("/etc/os-release: ID=%s VERSION_ID=%s", f.OS.ID, f.OS.Version)
	c.saw("kernel %s, %s", f.Kernel, f.Arch)
	if f.WSL {
		c.Detail += ", inside WSL"
	}
	if f.Container != "" {
		c.Detail += ", inside a container (" + f.Container + ")"
	}
	if m.Guest {
		c.Detail += ", itself a VM"
		if m.Maker != "" {
			c.Detail += " (" + m.Maker + ")"
		}
	}
	if f.Container != "" && m.CapsKnown {
		c.saw("/proc/self/status, CapBnd: lacks of what is needed %s", orNothing(strings.Join(m.Lacks, ", ")))
	}
	switch {
	case f.Arch != "amd64":
		c.State, c.Detail = Bad, "aivm makes x86-64 VMs only so far, and this machine is "+f.Arch
		c.Fix = []string{"run aivm on an x86-64 machine; its VMs are reached over SSH from anywhere"}
	case m.WSL1:
		c.State, c.Detail = Bad, c.Detail+": WSL 1 has no Linux kernel, so no KVM, no mounts and no networks for VMs"
		c.Fix = []string{"in PowerShell: wsl.exe --set-version DISTRIBUTION 2"}
	case m.Sandbox != "":
		c.State = Bad
		c.Detail += ": this shell is inside a " + m.Sandbox + ", and libvirt, KVM and mounts belong to the system outside"
		c.Fix = []string{"run aivm outside of it: " + map[string]string{
			"flatpak": "in a terminal of the system, not of the flatpak", "toolbox": "exit", "distrobox": "exit",
		}[m.Sandbox]}
	case f.Container != "" && !f.WSL && m.UserNS:
		c.State = Bad
		c.Detail += ": it is rootless (user ids are mapped), and mounts for shared folders cannot be made in it"
		c.Fix = []string{"run aivm on the host, or in a container of root with --privileged"}
	case f.Container != "" && len(m.Lacks) > 0:
		c.State = Bad
		c.Detail += ": nobody in it can get " + strings.Join(m.Lacks, " and ") + ", which networks and shared folders need"
		c.Fix = []string{"start the container with --privileged, or run aivm on the host"}
	case f.OSErr != nil:
		c.State, c.Detail = Unknown, f.OSErr.Error()
	case f.WSL && !f.Systemd:
		c.Detail += ", without systemd: libvirt has to be started again after each start of WSL, which aivm does"
		c.Fix = []string{"in /etc/wsl.conf: [boot] systemd=true; then in PowerShell: wsl.exe --shutdown"}
	default:
		if _, missing := Missing(f, Need{}); len(missing) > 0 {
			if _, err := install(f, missing); err != nil {
				c.Detail += ": packages have to be installed by hand"
			}
		}
	}
	return c
}

// nestedBy is how nested virtualisation is switched on, by what the machine's
// maker calls itself.
var nestedBy = []struct{ maker, how string }{
	{"Microsoft", "on the Hyper-V host: Set-VMProcessor -VMName NAME -ExposeVirtualizationExtensions $true"},
	{"VMware", "in VMware: the VM's processor settings, \"Virtualize Intel VT-x/EPT or AMD-V/RVI\""},
	{"VirtualBox", "on the VirtualBox host: VBoxManage modifyvm NAME --nested-hw-virt on"},
	{"innotek", "on the VirtualBox host: VBoxManage modifyvm NAME --nested-hw-virt on"},
	{"Google", "on Google Cloud: make the instance with --enable-nested-virtualization"},
	{"Amazon", "on EC2: choose a .metal instance, or a type with nested virtualisation"},
	{"QEMU", "on the host: set the VM's CPU to host-passthrough, with kvm_intel.nested=1 or kvm_amd.nested=1"},
	{"Red Hat", "on the host: set the VM's CPU to host-passthrough, with kvm_intel.nested=1 or kvm_amd.nested=1"},
	{"Parallels", "in Parallels: the VM's CPU settings, \"Enable nested virtualization\""},
	{"Xen", "on the Xen host: nestedhvm=1 in the VM's configuration"},
}

func howNested(m machineFact) string {
	for _, n := range nestedBy {
		if strings.Contains(m.Maker, n.maker) {
			return n.how
		}
	}
	return "where this machine is managed: give it nested virtualisation"
}

// emulationCost is what was measured with emulated guests beside one with KVM's
// usual times.
const emulationCost = "about ten times slower than with KVM: about a minute to the first login instead of some seconds, a login takes 1.5 s instead of 0.1 s"

func checkAccel(f Facts, x Examination) Check {
	c := Check{ID: "acceleration", Label: "Acceleration", State: OK}
	flags := strings.Join(f.CPUFlags, " ")
	if flags == "" {
		flags = "neither vmx nor svm"
	}
	c.saw("/proc/cpuinfo: %s", flags)
	emulated := func(state State, why string, fix ...string) Check {
		c.State, c.Detail, c.Fix = state, why+"; VMs are emulated, "+emulationCost, fix
		return c
	}
	module := map[bool]string{true: "kvm_amd", false: "kvm_intel"}[strings.Contains(flags, "svm")]
	switch {
	case f.KVM.Usable && x.MakeKVM == nil:
		c.Detail = "KVM (" + flags + ")"
		if f.KVM.Reason != "" {
			c.Detail += "; " + f.KVM.Reason
		} else {
			c.saw("/dev/kvm: opens, and makes a VM")
		}
		if f.KVMClosed {
			c.State, c.Detail = Bad, c.Detail+"; but /dev/kvm is closed to QEMU's user (group kvm), and no udev opens it: libvirt takes minutes over each VM"
			c.Fix = []string{"sudo chgrp kvm /dev/kvm && sudo chmod 0660 /dev/kvm"}
		}
		return c
	case f.KVM.Usable:
		c.saw("/dev/kvm: %v", x.MakeKVM)
		c.State, c.Detail = Bad, fmt.Sprintf("the CPU has %s and /dev/kvm opens, but no VM can be made with it (%v)", flags, x.MakeKVM)
		if isBusy(x.MakeKVM) {
			c.Detail += ": another hypervisor (VirtualBox, VMware) holds the CPU's virtualisation"
			c.Fix = []string{"shut down the VMs of VirtualBox or VMware"}
		} else {
			c.Fix = []string{"sudo dmesg | grep -i kvm"}
		}
		return c
	case f.Arch != "amd64" || len(f.CPUFlags) > 0 && f.KVM.Missing:
		if f.Container != "" {
			return emulated(Bad, "the CPU has "+flags+", but the container has no /dev/kvm", "start the container with --device /dev/kvm")
		}
		return emulated(Bad, "the CPU has "+flags+", but there is no /dev/kvm: the kernel's module is not loaded",
			"sudo modprobe "+module, "if it says \"Operation not supported\": switch on virtualisation in the firmware")
	case len(f.CPUFlags) > 0:
		return emulated(Bad, f.KVM.Reason, "ls -l /dev/kvm", "sudo modprobe "+module)
	case strings.Contains(f.KVM.Reason, "could not be read"):
		return emulated(Unknown, f.KVM.Reason)
	case f.WSL:
		return emulated(OK, "WSL gives this machine no virtualisation",
			"in %UserProfile%\\.wslconfig: [wsl2] nestedVirtualization=true (Windows 11); then in PowerShell: wsl.exe --shutdown")
	case x.Machine.Guest:
		return emulated(OK, "this machine is itself a VM, without nested virtualisation", howNested(x.Machine))
	}
	// Emulation works; it is a cost, not a fault.
	return emulated(OK, f.KVM.Reason, "switch on Intel VT-x or AMD-V in the firmware, or nested virtualisation where this machine is a VM")
}

// checkNested tells about virtualisation in two directions: this machine in
// another, and VMs in its VMs.
func checkNested(f Facts, x Examination) Check {
	c := Check{ID: "nested", Label: "Nested virtualisation", State: Skipped, Detail: "without KVM there is none"}
	m := x.Machine
	if m.Guest {
		c.saw("/proc/cpuinfo: hypervisor")
	}
	if !f.KVM.Usable {
		return c
	}
	c.State = OK
	here := "this machine is real"
	if m.Guest {
		here = "this machine is a VM that may have VMs"
	}
	switch m.Nested {
	case "":
		c.State, c.Detail = Unknown, here+"; whether VMs can have VMs of their own is not known: neither kvm_intel nor kvm_amd says so"
		return c
	case "N", "0":
		c.Detail = here + "; VMs in VMs are switched off, which only matters if you want to use KVM inside a guest"
		mod := strings.Split(m.NestedFile, "/")[3]
		c.Fix = []string{"echo options " + mod + " nested=1 | sudo tee /etc/modprobe.d/aivm-nested.conf, then restart the machine"}
	default:
		c.Detail = here + "; a VM can use KVM itself"
	}
	c.saw("%s: %s", m.NestedFile, m.Nested)
	return c
}
