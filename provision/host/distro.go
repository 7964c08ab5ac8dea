package host

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
)

// family is a group of distributions that call packages by the same names.
type family string

const (
	onDebian   family = "debian"
	onUbuntu   family = "ubuntu"
	onFedora   family = "fedora"
	onRHEL     family = "rhel"
	onArch     family = "arch"
	onSUSE     family = "suse"
	noFamily   family = ""
	amazon            = "amzn" // like Fedora by its own word, and without QEMU
	aptManager        = "apt"
)

// managers are the programs that install packages.
var managers = map[family]string{onDebian: aptManager, onUbuntu: aptManager, onFedora: "dnf", onRHEL: "dnf", onArch: "pacman", onSUSE: "zypper"}

// oldest are the releases of which aivm knows that everything is there: libvirt
// with virtiofs and a kernel that maps owners (5.12, RHEL 9's has it at 5.14).
var oldest = map[family]struct {
	version float64
	name    string
}{
	onDebian: {12, "Debian 12"}, onUbuntu: {22.04, "Ubuntu 22.04"}, onFedora: {39, "Fedora 39"},
	onRHEL: {9, "RHEL 9 (Alma, Rocky, CentOS Stream)"}, onSUSE: {15.6, "openSUSE Leap 15.6"},
}

// releases are the code names by which a derivative names its base.
var releases = map[string]struct {
	family  family
	version float64
}{
	"bullseye": {onDebian, 11}, "bookworm": {onDebian, 12}, "trixie": {onDebian, 13}, "forky": {onDebian, 14},
	"focal": {onUbuntu, 20.04}, "jammy": {onUbuntu, 22.04}, "lunar": {onUbuntu, 23.04}, "mantic": {onUbuntu, 23.10},
	"noble": {onUbuntu, 24.04}, "oracular": {onUbuntu, 24.10}, "plucky": {onUbuntu, 25.04}, "questing": {onUbuntu, 25.10},
	"resolute": {onUbuntu, 26.04},
}

// lineage returns the family and the version, 0 when it is a rolling or unknown
// one, which counts as new. A derivative (Mint, Pop!_OS) has version numbers of
// its own and is judged by the code name of its base.
func lineage(o OSRelease) (family, float64) {
	number := func() float64 {
		v, _ := strconv.ParseFloat(o.Version, 64)
		if !(v > 0 && v < 1e6) { // "NaN" and "inf" are numbers to Go
			return 0
		}
		return v
	}
	like := func(names ...string) bool {
		for _, n := range names {
			if o.ID == n || slices.Contains(o.IDLike, n) {
				return true
			}
		}
		return false
	}
	switch {
	case o.ID == "debian" || o.ID == "ubuntu":
		if v := number(); v > 0 {
			return family(o.ID), v
		}
		return family(o.ID), releases[o.Codename].version
	case o.ID == amazon:
		return noFamily, 0
	case o.ID == "opensuse-tumbleweed", o.ID == "opensuse-slowroll":
		return onSUSE, 0 // the version is a date
	case like("opensuse", "suse", "opensuse-leap", "sles", "sled"):
		return onSUSE, number()
	case like("rhel", "centos", "ol"): // Oracle's says only that it is like Fedora
		return onRHEL, number()
	case like("fedora"):
		return onFedora, number()
	case like("arch", "archlinux"):
		return onArch, 0
	}
	for _, name := range []string{o.Base, o.Codename} {
		if r, ok := releases[name]; ok {
			return r.family, r.version
		}
	}
	switch {
	case like("ubuntu"):
		return onUbuntu, 0
	case like("debian"):
		return onDebian, 0
	}
	return noFamily, 0
}

// names are what one tool's package is called, by manager; "" where there is
// no such package, or none that is of use there.
type names struct{ deb, fedora, rhel, arch, suse string }

func (n names) of(f family) string {
	switch f {
	case onFedora:
		return n.fedora
	case onRHEL:
		return n.rhel
	case onArch:
		return n.arch
	case onSUSE:
		return n.suse
	}
	return n.deb
}

func same(n string) names { return names{n, n, n, n, n} }

// a tool is something that has to be on the machine, and where it comes from.
type tool struct {
	name  string // key of Facts.Tools
	pkg   names
	image bool // only for building images
}

// Debian's names hold for Debian 12 and 13 and Ubuntu 22.04 and newer; libvirt's
// network and storage drivers came out of libvirt-daemon after Debian 12, but
// libvirt-daemon-system depends on them where they are packages of their own.
// The others are those of the distributions' package lists, and libvirt's own
// spec file for Fedora, RHEL and openSUSE; there the QEMU driver brings the log
// daemon. Images are built by mmdebstrap, which needs apt: on Debian's kin only.
var needed = []tool{
	{name: "qemu-system-x86_64", pkg: names{"qemu-system-x86", "qemu-system-x86-core", "qemu-kvm-core", "qemu-system-x86", "qemu-x86"}},
	{name: "qemu-img", pkg: names{"qemu-utils", "qemu-img", "qemu-img", "qemu-img", "qemu-img"}},
	{name: "virtiofsd", pkg: same("virtiofsd")},
	{name: "libvirtd", pkg: libvirtOf("libvirt-daemon-system", "libvirt-daemon-driver-qemu")},
	{name: "virtlogd", pkg: libvirtOf("libvirt-daemon-system", "libvirt-daemon-driver-qemu")},
	{name: "libvirt-driver-network", pkg: libvirtOf("libvirt-daemon-system", "libvirt-daemon-driver-network")},
	{name: "libvirt-driver-storage", pkg: libvirtOf("libvirt-daemon-system", "libvirt-daemon-driver-storage-core")},
	{name: "libvirt-driver-qemu", pkg: libvirtOf("libvirt-daemon-driver-qemu", "libvirt-daemon-driver-qemu")},
	{name: "dnsmasq", pkg: names{"dnsmasq-base", "dnsmasq", "dnsmasq", "dnsmasq", "dnsmasq"}},
	{name: "nft", pkg: same("nftables")},
	{name: "iptables", pkg: names{"iptables", "iptables-nft", "iptables-nft", "iptables", "iptables"}},
	{name: "ip", pkg: names{"iproute2", "iproute", "iproute", "iproute2", "iproute2"}},
	{name: "ssh", pkg: names{"openssh-client", "openssh-clients", "openssh-clients", "openssh", "openssh-clients"}},
	{name: "ssh-keygen", pkg: names{"openssh-client", "openssh", "openssh", "openssh", "openssh-common"}},
	{name: "mmdebstrap", pkg: names{deb: "mmdebstrap"}, image: true},
	{name: "extlinux", pkg: names{deb: "extlinux"}, image: true},
	{name: "gptmbr.bin", pkg: names{deb: "extlinux"}, image: true},
	{name: "sfdisk", pkg: names{deb: "fdisk"}, image: true},
	{name: "mke2fs", pkg: names{deb: "e2fsprogs"}, image: true},
	{name: "debian-archive-keyring", pkg: names{deb: "debian-archive-keyring"}, image: true},
}

// libvirtOf: Arch has one package for all of libvirt.
func libvirtOf(deb, rpm string) names { return names{deb, rpm, rpm, "libvirt", rpm} }

// Missing returns the tools that are not there, and the packages that bring
// them, both in a fixed order and without repetition. A tool may lack a
// package; on a system nobody knows the names are Debian's.
func Missing(f Facts, need Need) (tools, packages []string) {
	fam, _ := lineage(f.OS)
	for _, t := range needed {
		if (t.image && !need.Image) || f.Tools[t.name] != "" {
			continue
		}
		tools = append(tools, t.name)
		pkg := t.pkg.of(fam)
		if pkg == "virtiofsd" && !separateVirtiofsd(f.OS) {
			pkg = "qemu-system-common"
		}
		if pkg != "" && !slices.Contains(packages, pkg) {
			packages = append(packages, pkg)
		}
	}
	return tools, packages
}

// separateVirtiofsd tells whether apt knows a package virtiofsd: QEMU dropped
// its own C program in 8.0; before that it came with qemu-system-common.
func separateVirtiofsd(o OSRelease) bool {
	fam, version := lineage(o)
	switch {
	case version == 0:
		return true
	case fam == onDebian:
		return version >= 13
	case fam == onUbuntu:
		return version >= 23.10
	}
	return true
}

// install is the record that brings packages here, or why there is none.
func install(f Facts, packages []string) (root.Packages, error) {
	fam, version := lineage(f.OS)
	name := f.OS.Name
	if name == "" {
		name = f.OS.ID
	}
	name = ui.Clean(name)
	byHand := func(why, what string) error {
		return ui.Refused("%s: %s %s", why, what, strings.Join(packages, " ")).
			Hint(ui.Remark("install them (or what this system calls them) and run the same command again"), ui.Cmd("aivm host doctor"))
	}
	const debians = "missing here is what Debian calls"
	switch {
	case f.OSErr != nil:
		return root.Packages{}, byHand(fmt.Sprintf("/etc/os-release cannot be read (%v)", f.OSErr), debians)
	case f.Immutable != "":
		return root.Packages{}, ui.Refused("the system's files cannot be changed in place on %s: missing here are %s", name, strings.Join(packages, " ")).
			Hint(append(immutable[f.Immutable](packages), ui.Remark("and run the same command again"))...)
	case fam == noFamily:
		return root.Packages{}, byHand(fmt.Sprintf("aivm knows the packages of Debian, Ubuntu, Fedora, RHEL, Arch, openSUSE and their kin, and this is %s", name), debians)
	case version > 0 && version < oldest[fam].version:
		return root.Packages{}, byHand(fmt.Sprintf("%s is the oldest aivm knows, and this is %s", oldest[fam].name, name), "missing here are")
	}
	return root.Packages{Manager: managers[fam], Names: packages}, nil
}

// immutable are the systems whose files no package manager may change while
// they run, and what to type there.
var immutable = map[string]func(packages []string) []ui.Hint{
	"rpm-ostree": func(p []string) []ui.Hint {
		return []ui.Hint{ui.Cmd("sudo rpm-ostree install --idempotent " + strings.Join(p, " ")), ui.Cmd("sudo systemctl reboot")}
	},
	"transactional-update": func(p []string) []ui.Hint {
		return []ui.Hint{ui.Cmd("sudo transactional-update pkg install " + strings.Join(p, " ")), ui.Cmd("sudo systemctl reboot")}
	},
	"nixos": func([]string) []ui.Hint {
		return []ui.Hint{
			ui.Remark("in configuration.nix: virtualisation.libvirtd = { enable = true; qemu.vhostUserPackages = [ pkgs.virtiofsd ]; };"),
			ui.Cmd("sudo nixos-rebuild switch"),
		}
	},
	"steamos": func([]string) []ui.Hint {
		return []ui.Hint{ui.Remark("SteamOS forgets packages with every update; use a distrobox for tools, and another system for VMs")}
	},
}

// immutableBy names what keeps packages from being installed in place.
func immutableBy(env Env, o OSRelease) string {
	there := func(p string) bool { _, err := env.Stat(p); return err == nil }
	switch {
	case there("/run/ostree-booted"): // ostree's own mark (ostree-prepare-root)
		return "rpm-ostree"
	case o.ID == "opensuse-microos", o.ID == "opensuse-aeon", o.ID == "opensuse-kalpa", o.ID == "sl-micro":
		return "transactional-update"
	case o.ID == "nixos", o.ID == "steamos":
		return o.ID
	}
	return ""
}

// FixPackages says how these packages are installed here.
func FixPackages(f Facts, packages []string) []string {
	op, err := install(f, packages)
	switch {
	case err == nil:
		return []string{"sudo " + op.Shows()[0]}
	case f.Immutable != "":
		var out []string
		for _, h := range immutable[f.Immutable](packages) {
			out = append(out, h.String())
		}
		return out
	}
	return []string{"install what Debian calls " + strings.Join(packages, " ")}
}

// BuildsImages reports whether a guest image can be built from packages on a
// system of this kind.
func BuildsImages(f Facts) bool {
	fam, _ := lineage(f.OS)
	return managers[fam] == aptManager
}
