// Package record holds the typed records (Op) of all privileged actions of aivm:
// their fields, their JSON form, the check of every field, and the nearest shell
// lines to show to the user.
//
// It executes nothing. It lists what a record may name (package managers,
// services, sockets, modules); the packages that execute records use these lists.
package record

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/internal/root/rootfile"
	"aivm.dev/aivm/internal/wall"
)

// Op is one privileged action. The interface is sealed: only the kinds of this
// package exist.
type Op interface {
	Kind() string
	// Shows returns the nearest shell lines, for the user.
	Shows() []string
	sealed()
}

// Export makes the export root of a VM: a directory that is a shared mount of
// its own (mount_namespaces(7)), so that folders mounted later also appear in the
// mount namespace of a running virtiofsd.
type Export struct {
	VMKey string `json:"vm_key"`
}

// Bind mounts a host folder on a token: the folder is opened without following
// links, its mount is cloned, made nosuid and nodev (read-only if RO), given an
// owner map (guest uid 1000 = UID:GID, guest root = nobody, Groups as GuestGroup says),
// and moved below the export root. Dev and Ino identify the folder that was approved; another inode
// at that path is refused.
type Bind struct {
	Src   string `json:"src"`
	VMKey string `json:"vm_key"`
	Token string `json:"token"`
	RO    bool   `json:"ro,omitempty"`
	UID   int    `json:"uid"`
	GID   int    `json:"gid"`
	// Groups are other groups that the folder's owner is in, sorted: the guest can use
	// them in this folder.
	Groups []int  `json:"groups,omitempty"`
	Dev    uint64 `json:"dev"`
	Ino    uint64 `json:"ino"`
	// Own says that the VM has a daemon for only this folder: the protecting mounts
	// stay on this machine until that daemon has them.
	Own bool `json:"own,omitempty"`
	// Protect are paths below Src that the guest, including its root, can neither
	// write nor replace.
	Protect []string `json:"protect,omitempty"`
}

// Unbind unmounts a token. It never unmounts lazily: a busy token is an error.
// With Forget it keeps the mount and only removes its record, so that the hook
// does not mount the folder at the VM's next start.
type Unbind struct {
	VMKey  string `json:"vm_key"`
	Token  string `json:"token"`
	Forget bool   `json:"forget,omitempty"`
}

// Unexport removes the (empty) export root of a VM.
type Unexport struct {
	VMKey string `json:"vm_key"`
}

// Packages installs packages with the host's package manager.
type Packages struct {
	Manager string   `json:"manager"` // "apt", "dnf", "pacman" or "zypper"
	Names   []string `json:"names"`
}

// Service starts a daemon: through systemd where it runs, directly otherwise.
type Service struct {
	Name string `json:"name"` // one of services: "libvirtd", "virtlogd", ...
}

// KVMDevice gives group kvm the device /dev/kvm, as QEMU's udev rule does;
// for machines that have no udev.
type KVMDevice struct{}

// KVMModule loads the kernel's module for the CPU's virtualisation.
type KVMModule struct {
	Name string `json:"name"` // "kvm_intel", "kvm_amd"
}

// Ruleset reads all rules of nftables, which needs root, and passes them as JSON
// in an open descriptor. It changes nothing.
type Ruleset struct{}

// LibvirtSocket opens libvirt's socket as root and passes the open descriptor to
// the caller. It is for users who may use sudo but are not in group libvirt.
type LibvirtSocket struct {
	Path string `json:"path"`
}

// BuildImage builds a bootable guest image from the machine's package mirror and
// passes an open descriptor of the finished qcow2 to the caller, so that root
// writes nothing to a path that the caller chose.
type BuildImage struct {
	Distro string `json:"distro"` // "debian-12"
}

// Hooks installs a root-owned copy of this program and three libvirt hook scripts,
// and signals running daemons until they have loaded the scripts. With Remove it
// removes all of it, unless a network or VM still needs it.
type Hooks struct {
	Remove bool `json:"remove,omitempty"`
}

// Nft replaces the firewall's rules of one network in one transaction, and records
// them for the network hook. The helper generates the rules from the parameters;
// callers cannot pass a ruleset. With Remove it deletes the rules and the record.
// With IfUp it loads no rules for a network that is stopped, and only changes the
// record.
type Nft struct {
	Wall   wall.Wall `json:"wall"`
	Remove bool      `json:"remove,omitempty"`
	IfUp   bool      `json:"if_up,omitempty"`
}

// Kind implements Op.
func (Export) Kind() string { return "export" }

func (Bind) Kind() string { return "bind" }

func (Unbind) Kind() string { return "unbind" }

func (Unexport) Kind() string { return "unexport" }

func (Packages) Kind() string { return "packages" }

func (Service) Kind() string { return "service" }

func (KVMDevice) Kind() string { return "kvm-device" }

func (KVMModule) Kind() string { return "kvm-module" }

func (Ruleset) Kind() string { return "ruleset" }

func (LibvirtSocket) Kind() string { return "libvirt-socket" }

func (BuildImage) Kind() string { return "build-image" }

func (Hooks) Kind() string { return "hooks" }

func (Nft) Kind() string { return "nft" }

func (Export) sealed() {}

func (Bind) sealed() {}

func (Unbind) sealed() {}

func (Unexport) sealed() {}

func (Packages) sealed() {}

func (Service) sealed() {}

func (KVMDevice) sealed() {}

func (KVMModule) sealed() {}

func (Ruleset) sealed() {}

func (LibvirtSocket) sealed() {}

func (BuildImage) sealed() {}

func (Hooks) sealed() {}

func (Nft) sealed() {}

// Shows implements Op.
func (o Export) Shows() []string {
	d := rootfile.ExportRoot(o.VMKey)
	return []string{"mkdir -p " + d, "mount --bind " + d + " " + d, "mount --make-shared " + d}
}

func (o Bind) Shows() []string {
	opts := "nosuid,nodev"
	if o.RO {
		opts += ",ro"
	}
	var ids []string
	for _, kind := range []struct {
		letter string
		ids    []syscall.SysProcIDMap
	}{{"u", OwnerMap(o.UID)}, {"g", GroupMap(o.GID, o.Groups)}} {
		for _, m := range kind.ids {
			ids = append(ids, fmt.Sprintf("%s:%d:%d:%d", kind.letter, m.ContainerID, m.HostID, m.Size))
		}
	}
	token := filepath.Join(rootfile.ExportRoot(o.VMKey), o.Token)
	out := []string{fmt.Sprintf("mount --bind -o %s,X-mount.idmap='%s' %s %s", opts, strings.Join(ids, " "), quote(o.Src), token)}
	for _, p := range o.Protect {
		out = append(out, fmt.Sprintf("mount --bind -o ro %s %s (for the VM)", quote(filepath.Join(o.Src, p)), quote(filepath.Join(token, p))))
	}
	return out
}

func (o Unbind) Shows() []string {
	if o.Forget {
		return []string{"write " + rootfile.VMManifestPath(o.VMKey)}
	}
	return []string{"umount " + filepath.Join(rootfile.ExportRoot(o.VMKey), o.Token)}
}

func (o Unexport) Shows() []string {
	d := rootfile.ExportRoot(o.VMKey)
	return []string{"umount " + d, "rmdir " + d}
}

func (o Packages) Shows() []string {
	argv := []string{"apt-get", "install", "--no-install-recommends"}
	if install := InstallArgv(o.Manager); install != nil {
		argv = slices.DeleteFunc(install, func(w string) bool { return w == "-y" || w == "--noconfirm" || w == "--non-interactive" })
	}
	return []string{strings.Join(append(argv, o.Names...), " ")}
}

func (o Service) Shows() []string { return []string{"start " + o.Name} }

// Shows implements Op.
func (KVMDevice) Shows() []string { return []string{"chgrp kvm /dev/kvm", "chmod 0660 /dev/kvm"} }

// Shows implements Op.
func (o KVMModule) Shows() []string { return []string{"modprobe " + o.Name} }

// Shows implements Op.
func (Ruleset) Shows() []string { return []string{"nft -j list ruleset"} }

func (o LibvirtSocket) Shows() []string { return []string{"connect to " + o.Path} }

func (o BuildImage) Shows() []string {
	return []string{"mmdebstrap (" + o.Distro + ", from this machine's package mirror) into a bootable qcow2"}
}

// Shows implements Op.
func (o Hooks) Shows() []string {
	var out []string
	for _, k := range rootfile.HookKinds {
		out = append(out, map[bool]string{false: "write ", true: "rm "}[o.Remove]+rootfile.HookScript(k))
	}
	if o.Remove {
		return append(out, "rm "+rootfile.HookProgram)
	}
	return append([]string{"install -m 0755 (this program) " + rootfile.HookProgram}, append(out, "kill -HUP (libvirtd, so that it loads the hooks)")...)
}

// Shows implements Op.
func (o Nft) Shows() []string {
	if o.Remove {
		out := []string{"rm " + rootfile.NetManifestPath(o.Wall.Network)}
		for _, t := range o.Wall.Tables() {
			out = append(out, "nft delete table "+t)
		}
		return out
	}
	return []string{
		"nft -f - (only tables " + strings.Join(o.Wall.Tables(), ", ") + "; to see the rules: aivm host fw apply --dry-run)",
		"write " + rootfile.NetManifestPath(o.Wall.Network),
	}
}

func quote(s string) string { return shellescape.Quote(s) }
