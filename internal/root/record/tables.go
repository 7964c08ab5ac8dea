package record

import (
	"maps"
	"slices"
)

// installers are the package managers beside apt, each with how it is told to
// install; the names of the packages follow.
var installers = map[string][]string{
	"dnf":    {"dnf", "-y", "--setopt=install_weak_deps=False", "install"},
	"zypper": {"zypper", "--non-interactive", "install", "--no-recommends"},
	// Without -y: new lists and old packages together are a partial upgrade,
	// which Arch does not support.
	"pacman": {"pacman", "-S", "--needed", "--noconfirm"},
}

// InstallArgv returns how a package manager is told to install, without the
// names; nil for apt, which gets more than that, and for one that is not known.
func InstallArgv(manager string) []string { return slices.Clone(installers[manager]) }

// services are what Service may start.
var services = []string{"libvirtd", "virtqemud", "virtnetworkd", "virtstoraged", "virtlogd"}

// Services returns the names of the services that may be started.
func Services() []string { return slices.Clone(services) }

// Managers returns the names of the package managers beside apt, sorted.
func Managers() []string { return slices.Sorted(maps.Keys(installers)) }

// kvmModules are what KVMModule may load.
var kvmModules = []string{"kvm_intel", "kvm_amd"}

// libvirtSockets are what LibvirtSocket may open (/var/run is a link to /run
// where the packages put the former into a configuration).
var libvirtSockets = []string{"/run/libvirt/libvirt-sock", "/var/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock"}

// OpensSocket reports whether LibvirtSocket may open path.
func OpensSocket(path string) bool { return slices.Contains(libvirtSockets, path) }

// MaxProtected bounds the paths of one Bind: each is a mount.
const MaxProtected = 256
