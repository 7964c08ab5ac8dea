package host

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
)

// Need says what the machine is wanted for, beyond running VMs.
type Need struct {
	Image bool // building a guest image from packages
}

// Action ids of this package.
const (
	PackagesID = "host.packages"
	ServiceID  = "host.service." // and the daemon's name
	// KVMDeviceID is the action that opens /dev/kvm to QEMU's user.
	KVMDeviceID = "host.kvm-device"
	timing      = "host"
)

// a tool is something that has to be on the machine, and where it comes from.
type tool struct {
	name  string // key of Facts.Tools
	pkg   string // Debian's and Ubuntu's name
	image bool   // only for building images
}

// The names hold for Debian 12 and 13 and Ubuntu 22.04 and 24.04; libvirt's
// network and storage drivers came out of libvirt-daemon after Debian 12, but
// libvirt-daemon-system depends on them where they are packages of their own.
var needed = []tool{
	{name: "qemu-system-x86_64", pkg: "qemu-system-x86"},
	{name: "qemu-img", pkg: "qemu-utils"},
	{name: "virtiofsd", pkg: "virtiofsd"},
	{name: "libvirtd", pkg: "libvirt-daemon-system"},
	{name: "virtlogd", pkg: "libvirt-daemon-system"},
	{name: "libvirt-driver-network", pkg: "libvirt-daemon-system"},
	{name: "libvirt-driver-storage", pkg: "libvirt-daemon-system"},
	{name: "libvirt-driver-qemu", pkg: "libvirt-daemon-driver-qemu"},
	{name: "dnsmasq", pkg: "dnsmasq-base"},
	{name: "nft", pkg: "nftables"},
	{name: "iptables", pkg: "iptables"},
	{name: "ip", pkg: "iproute2"},
	{name: "ssh", pkg: "openssh-client"},
	{name: "ssh-keygen", pkg: "openssh-client"},
	{name: "mmdebstrap", pkg: "mmdebstrap", image: true},
	{name: "extlinux", pkg: "extlinux", image: true},
	{name: "gptmbr.bin", pkg: "extlinux", image: true},
	{name: "sfdisk", pkg: "fdisk", image: true},
	{name: "mke2fs", pkg: "e2fsprogs", image: true},
	{name: "debian-archive-keyring", pkg: "debian-archive-keyring", image: true},
}

// Missing returns the tools that are not there, and the packages that bring
// them, both in a fixed order and without repetition.
func Missing(f Facts, need Need) (tools, packages []string) {
	for _, t := range needed {
		if (t.image && !need.Image) || f.Tools[t.name] != "" {
			continue
		}
		tools = append(tools, t.name)
		pkg := t.pkg
		if pkg == "virtiofsd" && !separateVirtiofsd(f.OS) {
			pkg = "qemu-system-common"
		}
		if !slices.Contains(packages, pkg) {
			packages = append(packages, pkg)
		}
	}
	return tools, packages
}

// Plan returns what has to be done before a VM can be made here: one action
// for all packages, one for each daemon that does not run.
func Plan(f Facts, need Need) ([]plan.Action, error) {
	if f.Arch != "amd64" {
		return nil, ui.Refused("aivm makes x86-64 VMs only so far, and this machine is %s", f.Arch).
			Hint("run aivm on an x86-64 machine; its VMs are reached over SSH from anywhere")
	}
	var actions []plan.Action
	_, packages := Missing(f, need)
	if len(packages) > 0 {
		if err := aptHost(f, packages); err != nil {
			return nil, err
		}
		op := root.Packages{Manager: "apt", Names: packages}
		actions = append(actions, plan.Action{
			ID:      PackagesID,
			Why:     "install what this machine lacks (" + strconv.Itoa(len(packages)) + " packages)",
			Shows:   op.Shows(),
			Consent: plan.Ask,
			Root:    op,
			Timing:  timing,
		})
	}
	if f.KVMClosed {
		op := root.KVMDevice{}
		actions = append(actions, plan.Action{
			ID:    KVMDeviceID,
			Why:   "let QEMU's user open /dev/kvm, as udev would: libvirt otherwise takes minutes over each VM",
			Shows: op.Shows(), Consent: plan.Ask, Root: op, Timing: timing,
		})
	}
	for _, name := range daemons(f) {
		op := root.Service{Name: name}
		actions = append(actions, plan.Action{
			ID:      ServiceID + name,
			Why:     "start " + name + ", which does not run",
			Shows:   []string{startCommand(f, name)},
			Consent: plan.None,
			Root:    op,
			Timing:  timing,
		})
	}
	return actions, nil
}

// daemons returns those that have to be started. One that refuses this user is
// running, unless it was started by hand and its pid file says that it is gone.
func daemons(f Facts) []string {
	down := func(d DaemonFact) bool { return !d.Connectable && !d.Running && (!d.denied() || !f.Systemd) }
	var names []string
	// Under systemd libvirtd.service requires virtlogd's socket.
	if !f.Systemd && down(f.Virtlogd) {
		names = append(names, "virtlogd")
	}
	if down(f.Libvirtd) {
		names = append(names, "libvirtd")
	}
	return names
}

func startCommand(f Facts, daemon string) string {
	if f.Systemd {
		return "systemctl start " + daemon
	}
	return daemon + " -d"
}

// aptHost refuses machines whose packages have other names or are too old.
func aptHost(f Facts, packages []string) error {
	family, version := lineage(f.OS)
	name := f.OS.Name
	if name == "" {
		name = f.OS.ID
	}
	var why string
	switch {
	case f.OSErr != nil:
		why = fmt.Sprintf("/etc/os-release cannot be read (%v)", f.OSErr)
	case family == "":
		why = fmt.Sprintf("aivm installs packages on Debian and Ubuntu only, and this is %s", ui.Clean(name))
	case version > 0 && (family == "debian" && version < 12 || family == "ubuntu" && version < 22.04):
		why = fmt.Sprintf("Debian 12 or Ubuntu 22.04 is the oldest aivm knows, and this is %s", ui.Clean(name))
	default:
		return nil
	}
	return ui.Refused("%s: missing here is what Debian calls %s", why, strings.Join(packages, " ")).
		Hint("install them (or what this system calls them) and run the same command again", "aivm host doctor")
}

// releases are the code names by which a derivative names its base.
var releases = map[string]struct {
	family  string
	version float64
}{
	"bullseye": {"debian", 11}, "bookworm": {"debian", 12}, "trixie": {"debian", 13}, "forky": {"debian", 14},
	"focal": {"ubuntu", 20.04}, "jammy": {"ubuntu", 22.04}, "lunar": {"ubuntu", 23.04}, "mantic": {"ubuntu", 23.10},
	"noble": {"ubuntu", 24.04}, "oracular": {"ubuntu", 24.10}, "plucky": {"ubuntu", 25.04}, "questing": {"ubuntu", 25.10},
	"resolute": {"ubuntu", 26.04},
}

// lineage returns "debian" or "ubuntu" and the version, 0 when it is a rolling
// or unknown one, which counts as new. A derivative (Mint, Pop!_OS) has version
// numbers of its own and is judged by the code name of its base.
func lineage(o OSRelease) (family string, version float64) {
	if o.ID == "debian" || o.ID == "ubuntu" {
		v, err := strconv.ParseFloat(o.Version, 64)
		if err != nil {
			v = releases[o.Codename].version
		}
		return o.ID, v
	}
	for _, name := range []string{o.Base, o.Codename} {
		if r, ok := releases[name]; ok {
			return r.family, r.version
		}
	}
	for _, like := range []string{"ubuntu", "debian"} {
		if slices.Contains(o.IDLike, like) {
			return like, 0
		}
	}
	return "", 0
}

// separateVirtiofsd tells whether apt knows a package virtiofsd: QEMU dropped
// its own C program in 8.0; before that it came with qemu-system-common.
func separateVirtiofsd(o OSRelease) bool {
	family, version := lineage(o)
	switch {
	case version == 0:
		return true
	case family == "debian":
		return version >= 13
	default:
		return version >= 23.10
	}
}
