package host

import (
	"strconv"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
)

// Need says what the host has to support beyond running VMs.
type Need struct {
	Image bool // building a guest image from packages
}

// The action IDs of this package.
const (
	PackagesID = "host.packages"
	ServiceID  = "host.service." // + the daemon's name
	// KVMDeviceID is the action that lets QEMU's user open /dev/kvm.
	KVMDeviceID = "host.kvm-device"
	timing      = "host"
)

// Plan returns what is missing on the host before a VM can be created: one action for all packages,
// one for each daemon that is not running.
func Plan(f Facts, need Need) ([]plan.Action, error) {
	if f.Arch != "amd64" {
		return nil, ui.Refused("aivm supports x86-64 only, and this machine is %s", f.Arch).
			Hint(ui.Remark("run aivm on an x86-64 machine; its VMs can be reached over SSH"))
	}
	actions, err := PlanPackages(f, need)
	if err != nil {
		return nil, err
	}
	if f.KVMClosed {
		op := root.KVMDevice{}
		actions = append(actions, plan.Action{
			ID:    KVMDeviceID,
			Why:   "let QEMU's user open /dev/kvm, as udev would: without it libvirt takes minutes for each VM",
			Shows: op.Shows(), Consent: plan.Ask, Root: op, Timing: timing,
		})
	}
	for _, name := range daemons(f) {
		op := root.Service{Name: name}
		actions = append(actions, plan.Action{
			ID:      ServiceID + name,
			Why:     "start " + name + ", which is not running",
			Shows:   []string{startCommand(f, name)},
			Consent: plan.None,
			Root:    op,
			Timing:  timing,
		})
	}
	return actions, nil
}

// PlanPackages returns the part of Plan that installs packages: no action or one.
func PlanPackages(f Facts, need Need) ([]plan.Action, error) {
	tools, packages := Missing(f, need)
	if len(tools) == 0 {
		return nil, nil
	}
	if fam, _ := lineage(f.OS); need.Image && fam != noFamily && managers[fam] != aptManager {
		if lacks, _ := Missing(f, Need{}); len(lacks) < len(tools) {
			return nil, ui.Refused("building a guest image needs mmdebstrap and apt, which only Debian, Ubuntu and their derivatives have").
				Hint(ui.CmdFor("use a finished image", "aivm image list"), ui.Cmd("aivm vm create --image ubuntu-24.04"), ui.Cmd("aivm host doctor"))
		}
	}
	op, err := install(f, packages)
	if err != nil {
		return nil, err
	}
	return []plan.Action{{
		ID:      PackagesID,
		Why:     "install " + plural(len(packages), "missing package"),
		Shows:   op.Shows(),
		Consent: plan.Ask,
		Root:    op,
		Timing:  timing,
	}}, nil
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

// daemons returns the daemons to start. A daemon that refuses this user is running, unless it was
// started manually and its pid file shows that it has ended.
func daemons(f Facts) []string {
	down := func(d DaemonFact) bool { return !d.Connectable && !d.Running && (!d.denied() || !f.Systemd) }
	var names []string
	// Under systemd libvirtd.service requires virtlogd's socket.
	if !f.Systemd && down(f.Virtlogd) {
		names = append(names, "virtlogd")
	}
	for _, d := range append([]DaemonFact{f.Libvirtd}, f.Parts...) {
		if down(d) {
			names = append(names, d.Name)
		}
	}
	return names
}

func startCommand(f Facts, daemon string) string {
	switch {
	case f.Systemd && modular(daemon):
		return "systemctl start " + daemon + ".socket"
	case f.Systemd:
		return "systemctl start " + daemon
	}
	return daemon + " -d"
}

// modular reports whether systemd starts this daemon on a connection to its socket.
func modular(daemon string) bool {
	return daemon == "virtqemud" || daemon == "virtnetworkd" || daemon == "virtstoraged"
}
