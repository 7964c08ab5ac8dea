package record

import (
	"maps"
	"slices"
)

// installers maps the package managers other than apt to their install commands;
// the names of the packages follow.
var installers = map[string][]string{
	"dnf":    {"dnf", "-y", "--setopt=install_weak_deps=False", "install"},
	"zypper": {"zypper", "--non-interactive", "install", "--no-recommends"},
	// Without -y: new package lists with old packages make a partial upgrade, which
	// Arch does not support.
	"pacman": {"pacman", "-S", "--needed", "--noconfirm"},
}

// InstallArgv returns the install command of a package manager, without the names
// of packages; nil for apt, whose command hostsetup builds, and for an unknown one.
func InstallArgv(manager string) []string { return slices.Clone(installers[manager]) }

// services lists the daemons that Service may start.
var services = []string{"libvirtd", "virtqemud", "virtnetworkd", "virtstoraged", "virtlogd"}

// Services returns the names of the services that may be started.
func Services() []string { return slices.Clone(services) }

// Managers returns the names of the package managers other than apt, sorted.
func Managers() []string { return slices.Sorted(maps.Keys(installers)) }

// kvmModules lists the modules that KVMModule may load.
var kvmModules = []string{"kvm_intel", "kvm_amd"}

// libvirtSockets lists the sockets that LibvirtSocket may open. Some packages'
// configurations name /var/run, which is a link to /run.
var libvirtSockets = []string{"/run/libvirt/libvirt-sock", "/var/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock"}

// OpensSocket reports whether LibvirtSocket may open path.
func OpensSocket(path string) bool { return slices.Contains(libvirtSockets, path) }

// MaxProtected is the most paths of one Bind: each is a mount.
const MaxProtected = 256
