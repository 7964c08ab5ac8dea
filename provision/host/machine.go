package host

import (
	"fmt"
	"strconv"
	"strings"

	"aivm.dev/aivm/internal/ui"
)

// machineFact says what kind of machine the host is, as far as it matters for VMs.
type machineFact struct {
	Sandbox    string // "toolbox", "distrobox", "flatpak": the shell runs inside one of these
	Guest      bool   // the CPU flags say that the host is a VM
	Maker      string // "VMware, Inc. VMware Virtual Platform"
	Nested     string // parameter "nested" of kvm_intel or kvm_amd: "Y", "1", "N", "0"; "" if there is none
	NestedFile string
	CapsKnown  bool
	Lacks      []string // needed capabilities that no process in this container can get
	UserNS     bool     // user IDs are mapped: a rootless container
	WSL1       bool
}

// capabilities lists the ones that shared folders and networks need (linux/capability.h).
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
	// The kernel release of WSL 1 is "4.4.0-19041-Microsoft", that of WSL 2
	// "...-microsoft-standard-WSL2".
	m.WSL1 = f.WSL && strings.HasSuffix(f.Kernel, "-Microsoft")
	return m
}

func checkSystem(f Facts, x Examination) Check {
	c := Check{ID: "system", Label: "System", State: OK, Detail: f.OS.Name}
	m := x.Machine
	c.addEvidence("/etc/os-release: ID=%s VERSION_ID=%s", f.OS.ID, f.OS.Version)
	c.addEvidence("kernel %s, %s", f.Kernel, f.Arch)
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
		c.addEvidence("/proc/self/status, CapBnd: needed and missing: %s", orNothing(strings.Join(m.Lacks, ", ")))
	}
	switch {
	case f.Arch != "amd64":
		c.State, c.Detail = Bad, "aivm supports x86-64 only, and this machine is "+f.Arch
		c.Fix = []string{"run aivm on an x86-64 machine; its VMs can be reached over SSH"}
	case m.WSL1:
		c.State, c.Detail = Bad, c.Detail+": WSL 1 has no Linux kernel, so no KVM, no mounts and no networks for VMs"
		c.Fix = []string{"in PowerShell: wsl.exe --set-version DISTRIBUTION 2"}
	case m.Sandbox != "":
		c.State = Bad
		c.Detail += ": this shell runs inside a " + m.Sandbox + ", but libvirt, KVM and mounts belong to the system outside it"
		c.Fix = []string{"run aivm outside it: " + map[string]string{
			"flatpak": "in a terminal of the system, not of the flatpak", "toolbox": "exit", "distrobox": "exit",
		}[m.Sandbox]}
	case f.Container != "" && !f.WSL && m.UserNS:
		c.State = Bad
		c.Detail += ": it is rootless (user IDs are mapped), so it cannot make the mounts of shared folders"
		c.Fix = []string{"run aivm on the host, or in a rootful container with --privileged"}
	case f.Container != "" && len(m.Lacks) > 0:
		c.State = Bad
		c.Detail += ": no process in it can have " + strings.Join(m.Lacks, " and ") + ", which networks and shared folders need"
		c.Fix = []string{"start the container with --privileged, or run aivm on the host"}
	case f.OSErr != nil:
		c.State, c.Detail = Unknown, f.OSErr.Error()
	case f.WSL && !f.Systemd:
		c.Detail += ", without systemd: aivm starts libvirt again after each start of WSL"
		c.Fix = []string{"in /etc/wsl.conf: [boot] systemd=true; then in PowerShell: wsl.exe --shutdown"}
	default:
		if _, missing := Missing(f, Need{}); len(missing) > 0 {
			if _, err := install(f, missing); err != nil {
				c.Detail += ": packages must be installed manually"
			}
		}
	}
	return c
}

// nestedBy tells how to enable nested virtualisation, by the vendor name of the machine.
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
	return "where this machine is managed: enable nested virtualisation for it"
}

// emulationCost was measured: emulated guests against usual times with KVM.
const emulationCost = "about ten times slower than with KVM: about a minute to the first login instead of some seconds, a login takes 1.5 s instead of 0.1 s"

func checkAccel(f Facts, x Examination) Check {
	c := Check{ID: "acceleration", Label: "Acceleration", State: OK}
	flags := strings.Join(f.CPUFlags, " ")
	if flags == "" {
		flags = "neither vmx nor svm"
	}
	c.addEvidence("/proc/cpuinfo: %s", flags)
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
			c.addEvidence("/dev/kvm: opens, and can create a VM")
		}
		if f.KVMClosed {
			c.State, c.Detail = Bad, c.Detail+"; but QEMU's user (group kvm) cannot open /dev/kvm, and no udev changes that: libvirt takes minutes for each VM"
			c.Fix = []string{"sudo chgrp kvm /dev/kvm && sudo chmod 0660 /dev/kvm"}
		}
		return c
	case f.KVM.Usable:
		c.addEvidence("/dev/kvm: %v", x.MakeKVM)
		c.State, c.Detail = Bad, fmt.Sprintf("the CPU has %s and /dev/kvm opens, but KVM cannot create a VM (%v)", flags, x.MakeKVM)
		if isBusy(x.MakeKVM) {
			c.Detail += ": another hypervisor (VirtualBox, VMware) is using the CPU's virtualisation"
			c.Fix = []string{"shut down the VMs of VirtualBox or VMware"}
		} else {
			c.Fix = []string{"sudo dmesg | grep -i kvm"}
		}
		return c
	case f.Arch != "amd64" || len(f.CPUFlags) > 0 && f.KVM.Missing:
		if f.Container != "" {
			return emulated(Bad, "the CPU has "+flags+", but the container has no /dev/kvm", "start the container with --device /dev/kvm")
		}
		return emulated(Bad, "the CPU has "+flags+", but there is no /dev/kvm: the kernel module is not loaded",
			"sudo modprobe "+module, "if it prints \"Operation not supported\": enable virtualisation in the firmware")
	case len(f.CPUFlags) > 0:
		return emulated(Bad, f.KVM.Reason, "ls -l /dev/kvm", "sudo modprobe "+module)
	case strings.Contains(f.KVM.Reason, "could not be read"):
		return emulated(Unknown, f.KVM.Reason)
	case f.WSL:
		return emulated(OK, "WSL provides no nested virtualisation",
			"in %UserProfile%\\.wslconfig: [wsl2] nestedVirtualization=true (Windows 11); then in PowerShell: wsl.exe --shutdown")
	case x.Machine.Guest:
		return emulated(OK, "this machine is itself a VM, without nested virtualisation", howNested(x.Machine))
	}
	// Emulation works; it is slow, but not a fault.
	return emulated(OK, f.KVM.Reason, "enable Intel VT-x or AMD-V in the firmware, or nested virtualisation if this machine is a VM")
}

// checkNested reports nested virtualisation in two directions: the host inside a VM, and VMs inside
// aivm's VMs.
func checkNested(f Facts, x Examination) Check {
	c := Check{ID: "nested", Label: "Nested virtualisation", State: Skipped, Detail: "none without KVM"}
	m := x.Machine
	if m.Guest {
		c.addEvidence("/proc/cpuinfo: hypervisor")
	}
	if !f.KVM.Usable {
		return c
	}
	c.State = OK
	kind := "this machine is not a VM"
	if m.Guest {
		kind = "this machine is a VM with nested virtualisation"
	}
	switch m.Nested {
	case "":
		c.State, c.Detail = Unknown, kind+"; whether its VMs can use KVM too is unknown: neither kvm_intel nor kvm_amd has the parameter nested"
		return c
	case "N", "0":
		c.Detail = kind + "; nested virtualisation is off for its VMs, which matters only if you want to use KVM in a guest"
		mod := strings.Split(m.NestedFile, "/")[3]
		c.Fix = []string{"echo options " + mod + " nested=1 | sudo tee /etc/modprobe.d/aivm-nested.conf, then restart the machine"}
	default:
		c.Detail = kind + "; its VMs can use KVM too"
	}
	c.addEvidence("%s: %s", m.NestedFile, m.Nested)
	return c
}
