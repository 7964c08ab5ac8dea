package host

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
)

// family is a group of distributions with the same package names.
type family string

const (
	onDebian   family = "debian"
	onUbuntu   family = "ubuntu"
	onFedora   family = "fedora"
	onRHEL     family = "rhel"
	onArch     family = "arch"
	onSUSE     family = "suse"
	noFamily   family = ""
	amazon            = "amzn" // its ID_LIKE says Fedora, but it has no QEMU
	aptManager        = "apt"
)

// managers maps a family to its package manager.
var managers = map[family]string{onDebian: aptManager, onUbuntu: aptManager, onFedora: "dnf", onRHEL: "dnf", onArch: "pacman", onSUSE: "zypper"}

// oldest holds the oldest supported release of each family. They have libvirt with virtiofs and a
// kernel that maps owners (Linux 5.12 and newer; RHEL 9 has 5.14).
var oldest = map[family]struct {
	version float64
	name    string
}{
	onDebian: {12, "Debian 12"}, onUbuntu: {22.04, "Ubuntu 22.04"}, onFedora: {39, "Fedora 39"},
	onRHEL: {9, "RHEL 9 (Alma, Rocky, CentOS Stream)"}, onSUSE: {15.6, "openSUSE Leap 15.6"},
}

// releases maps the code name of a base distribution to its family and version.
var releases = map[string]struct {
	family  family
	version float64
}{
	"bullseye": {onDebian, 11}, "bookworm": {onDebian, 12}, "trixie": {onDebian, 13}, "forky": {onDebian, 14},
	"focal": {onUbuntu, 20.04}, "jammy": {onUbuntu, 22.04}, "lunar": {onUbuntu, 23.04}, "mantic": {onUbuntu, 23.10},
	"noble": {onUbuntu, 24.04}, "oracular": {onUbuntu, 24.10}, "plucky": {onUbuntu, 25.04}, "questing": {onUbuntu, 25.10},
	"resolute": {onUbuntu, 26.04},
}

// lineage returns the family of a distribution and the version of that family's release. The
// version is 0 for a rolling or unknown release, which counts as new. A derivative (Mint, Pop!_OS)
// has its own version numbers, so the code name of its base decides.
func lineage(o OSRelease) (family, float64) {
	number := func() float64 {
		v, _ := strconv.ParseFloat(o.Version, 64)
		if !(v > 0 && v < 1e6) { // ParseFloat accepts "NaN" and "inf"
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
	case like("rhel", "centos", "ol"): // the ID_LIKE of Oracle Linux names only Fedora
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

// names holds the name of a tool's package for each manager; "" if there is no such package, or
// none that helps.
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

func sameName(n string) names { return names{n, n, n, n, n} }

// A tool is a program or file that must be installed, with its packages.
type tool struct {
	name  string // its key in Facts.Tools
	pkg   names
	image bool // needed only for building images
}

// needed lists the tools in the order in which they are reported.
//
// Debian's names are valid for Debian 12 and 13 and for Ubuntu 22.04 and newer. After Debian 12,
// libvirt's network and storage drivers moved out of the package libvirt-daemon, but
// libvirt-daemon-system depends on their packages. The other names come from the distributions'
// package lists, and from libvirt's own spec file for Fedora, RHEL and openSUSE, where the QEMU
// driver pulls in the log daemon. Images are built by mmdebstrap, which needs apt, so only on
// Debian and its derivatives.
var needed = []tool{
	{name: "qemu-system-x86_64", pkg: names{"qemu-system-x86", "qemu-system-x86-core", "qemu-kvm-core", "qemu-system-x86", "qemu-x86"}},
	{name: "qemu-img", pkg: names{"qemu-utils", "qemu-img", "qemu-img", "qemu-img", "qemu-img"}},
	{name: "virtiofsd", pkg: sameName("virtiofsd")},
	{name: "libvirtd", pkg: libvirtOf("libvirt-daemon-system", "libvirt-daemon-driver-qemu")},
	{name: "virtlogd", pkg: libvirtOf("libvirt-daemon-system", "libvirt-daemon-driver-qemu")},
	{name: "libvirt-driver-network", pkg: libvirtOf("libvirt-daemon-system", "libvirt-daemon-driver-network")},
	{name: "libvirt-driver-storage", pkg: libvirtOf("libvirt-daemon-system", "libvirt-daemon-driver-storage-core")},
	{name: "libvirt-driver-qemu", pkg: libvirtOf("libvirt-daemon-driver-qemu", "libvirt-daemon-driver-qemu")},
	{name: "dnsmasq", pkg: names{"dnsmasq-base", "dnsmasq", "dnsmasq", "dnsmasq", "dnsmasq"}},
	{name: "nft", pkg: sameName("nftables")},
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

// libvirtOf returns the names of a libvirt package. Arch has one package for all of libvirt.
func libvirtOf(deb, rpm string) names { return names{deb, rpm, rpm, "libvirt", rpm} }

// Missing returns the tools that are not installed and the packages that contain them, both in a
// fixed order and without duplicates. A tool may have no package. On an unknown distribution the
// package names are Debian's.
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

// separateVirtiofsd reports whether apt has a package virtiofsd. QEMU removed its own C
// implementation in 8.0; older releases have it in qemu-system-common.
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

// install returns the privileged record that installs packages, or the error that says why aivm
// cannot install them.
func install(f Facts, packages []string) (root.Packages, error) {
	fam, version := lineage(f.OS)
	name := f.OS.Name
	if name == "" {
		name = f.OS.ID
	}
	name = ui.Clean(name)
	manual := func(why, what string) error {
		return ui.Refused("%s: %s %s", why, what, strings.Join(packages, " ")).
			Hint(ui.Remark("install them, under the names this system uses, and run the same command again"), ui.Cmd("aivm host doctor"))
	}
	const debians = "missing are the packages that Debian calls"
	switch {
	case f.OSErr != nil:
		return root.Packages{}, manual(fmt.Sprintf("cannot read /etc/os-release (%v)", f.OSErr), debians)
	case f.Immutable != "":
		return root.Packages{}, ui.Refused("packages cannot be installed into the running system on %s: missing are %s", name, strings.Join(packages, " ")).
			Hint(append(immutable[f.Immutable](packages), ui.Remark("then run the same command again"))...)
	case fam == noFamily:
		return root.Packages{}, manual(fmt.Sprintf("aivm knows the package names of Debian, Ubuntu, Fedora, RHEL, Arch, openSUSE and their derivatives, not those of %s", name), debians)
	case version > 0 && version < oldest[fam].version:
		return root.Packages{}, manual(fmt.Sprintf("%s is the oldest supported release, and this is %s", oldest[fam].name, name), "missing are")
	}
	return root.Packages{Manager: managers[fam], Names: packages}, nil
}

// immutable maps what protects the system's files while it runs to the commands that install
// packages there.
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
		return []ui.Hint{ui.Remark("every update of SteamOS removes installed packages: use another system for VMs")}
	},
}

// immutableBy names what prevents installing packages into the running system, or returns "".
func immutableBy(env Env, o OSRelease) string {
	there := func(p string) bool { _, err := env.Stat(p); return err == nil }
	switch {
	case there("/run/ostree-booted"): // made by ostree-prepare-root
		return "rpm-ostree"
	case o.ID == "opensuse-microos", o.ID == "opensuse-aeon", o.ID == "opensuse-kalpa", o.ID == "sl-micro":
		return "transactional-update"
	case o.ID == "nixos", o.ID == "steamos":
		return o.ID
	}
	return ""
}

// FixPackages returns the commands or the advice that installs packages on this machine.
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
	return []string{"install the packages that Debian calls " + strings.Join(packages, " ")}
}

// BuildsImages reports whether a guest image can be built from packages on this distribution.
func BuildsImages(f Facts) bool {
	fam, _ := lineage(f.OS)
	return managers[fam] == aptManager
}
