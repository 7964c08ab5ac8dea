// Package hookrun runs libvirt's hooks: before a network or VM starts it loads the
// firewall and mounts the folders, and removes rules when a network stops.
//
// It never calls libvirt, which waits for the hook with its locks held.
package hookrun

import (
	"context"
	"io"
	"os"
	"time"

	"aivm.dev/aivm/internal/root/definition"
	"aivm.dev/aivm/internal/root/devguard"
	"aivm.dev/aivm/internal/root/exportroot"
	"aivm.dev/aivm/internal/root/nftload"
	"aivm.dev/aivm/internal/root/rootfile"
	"aivm.dev/aivm/internal/ui"
)

// LockLimit is how long a hook waits for all its locks together: libvirt waits for
// the hook with its own locks held.
const LockLimit = 10 * time.Second

// Run executes one call of a hook by libvirt (libvirt.org/hooks.html): args are kind,
// object's name, operation, sub-operation and extra; stdin is the object's XML. An
// error keeps the network or VM from starting. libvirt waits with its locks held, so
// Run never calls libvirt and does nothing slow.
//
// lockLimit is how long to wait for all locks together. The args "check NETWORK" are
// not libvirt's: they print the network's rules as the kernel has them, for a user
// who may not read them (CheckArgs).
func Run(ctx context.Context, lockLimit time.Duration, args []string, stdin io.Reader, stdout io.Writer) error {
	if os.Geteuid() != 0 {
		return ui.Refused("root-hook is aivm's hook; only libvirt runs it").Hint(ui.Cmd("aivm --help"))
	}
	if len(args) == 2 && args[0] == checkVerb {
		return nftload.PrintRules(args[1], stdout)
	}
	if len(args) < 3 {
		return ui.Usage("a libvirt hook has a kind, a name and an operation")
	}
	kind, name, op := args[0], args[1], args[2]
	rootfile.LimitWaits(lockLimit)
	switch kind {
	case "network":
		switch op {
		case "start", "started", "port-created":
			// At "start" the bridge does not exist yet, so no guest is on it without
			// rules. The later operations load the rules again if another program has
			// flushed them.
			return nftload.HookNetwork(ctx, name, definition.HookedNetwork(stdin))
		case "stopped":
			return nftload.HookNetworkStopped(ctx, name)
		}
	case "qemu":
		switch op {
		case "prepare":
			return hookGuest(ctx, name, stdin)
		case "started":
			return hookStarted(name, stdin)
		case "start", "stopped":
			// At "start" the VM's interfaces are on the bridge and its CPUs do not run yet.
			return hookPorts(ctx, op == "start", stdin)
		}
	}
	return nil
}

const checkVerb = "check"

// CheckArgs returns the command that prints a network's rules as the kernel has them.
// The command needs root's rights and changes nothing. It is always the same, so that
// a line of sudoers can allow it and nothing else.
func CheckArgs(network string) []string {
	return []string{rootfile.HookProgram, rootfile.HookCommand, checkVerb, network}
}

// hookPorts binds the VM's MAC addresses to the bridge ports that libvirt made for
// them, so that no other guest can send with its MAC and IP address. When the VM stops
// it removes the bindings, because libvirt reuses a port's name for another VM.
func hookPorts(ctx context.Context, starts bool, stdin io.Reader) error {
	d, err := definition.ReadVM(stdin)
	if err != nil {
		return err
	}
	for _, i := range d.Interfaces {
		if i.Source.Network == "" {
			continue
		}
		if err := nftload.HookPort(ctx, i.Source.Network, i.MAC.Address, i.Target.Dev, starts); err != nil {
			return err
		}
	}
	return nil
}

// hookGuest loads the firewalls of a VM's networks and mounts its folders, before the
// VM starts. For a VM that is migrated or restored libvirt runs it twice, which is
// harmless.
func hookGuest(ctx context.Context, name string, stdin io.Reader) error {
	d, err := definition.ReadVM(stdin)
	if err != nil {
		return err
	}
	for _, i := range d.Interfaces {
		if i.Source.Network == "" {
			continue
		}
		if err := nftload.HookNetwork(ctx, i.Source.Network, definition.Network{}); err != nil {
			return err
		}
	}
	if owner, ok := d.Owner(); ok {
		devguard.Forget(owner, name)
		closeImages(d)
		closeExport()
		return exportroot.RestoreFolders(owner, name)
	}
	return nil
}

// hookStarted finishes the protection of paths and denies device nodes, after a VM has
// started.
func hookStarted(name string, stdin io.Reader) error {
	d, err := definition.ReadVM(stdin)
	if err != nil {
		return err
	}
	if owner, ok := d.Owner(); ok {
		exportroot.FinishProtection(owner, name)
		devguard.Guard(owner, name, d.ID)
	}
	return nil
}
