// Package hookrun is what libvirt's hooks do: before a network or VM starts they put
// its walls and folders up again, and when it stops they take them down.
//
// It asks libvirt nothing, which waits with its locks held.
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

// LockLimit is how long a hook waits for all its locks together: libvirt
// waits with its own held.
const LockLimit = 10 * time.Second

// Run is what libvirt runs (libvirt.org/hooks.html): kind, object's name,
// operation, sub-operation, extra; the object's XML on stdin. An error keeps
// the network or VM from starting. libvirt waits with its locks held, so
// nothing here asks libvirt, and nothing takes long.
//
// lockLimit is how long to wait for all locks together. "check NETWORK" only reads: it prints what the kernel holds of the network's
// rules, for a user who may not ask it (CheckArgs).
func Run(ctx context.Context, lockLimit time.Duration, args []string, stdin io.Reader, stdout io.Writer) error {
	if os.Geteuid() != 0 {
		return ui.Refused("this is aivm's hook and is run by libvirt").Hint(ui.Cmd("aivm --help"))
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
			// At "start" the bridge is not there yet, so no guest is on it
			// without rules; later, who flushed them meanwhile is answered.
			return nftload.HookWall(ctx, name, definition.HookedNetwork(stdin))
		case "stopped":
			return nftload.HookLower(ctx, name)
		}
	case "qemu":
		switch op {
		case "prepare":
			return hookGuest(ctx, name, stdin)
		case "started":
			return hookStarted(name, stdin)
		case "start", "stopped":
			// Its cards are plugged in, and nothing runs behind them yet.
			return hookPorts(ctx, op == "start", stdin)
		}
	}
	return nil
}

const checkVerb = "check"

// CheckArgs is the command that prints what the kernel holds of a network's
// rules; it needs root's rights, changes nothing, and is the same every time,
// so that a line of sudoers can allow it and nothing else.
func CheckArgs(network string) []string {
	return []string{rootfile.HookProgram, rootfile.HookCommand, checkVerb, network}
}

// hookPorts binds the VM's cards to the ports libvirt made for them, so that no
// other guest can send under its card and address; when it stops they are let
// go, for libvirt gives a port's name to another VM.
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

// hookGuest runs before a VM starts: the walls of its networks are put up and
// its folders put back, both a second time for a VM that is migrated or
// restored, which is harmless.
func hookGuest(ctx context.Context, name string, stdin io.Reader) error {
	d, err := definition.ReadVM(stdin)
	if err != nil {
		return err
	}
	for _, i := range d.Interfaces {
		if i.Source.Network == "" {
			continue
		}
		if err := nftload.HookWall(ctx, i.Source.Network, definition.Network{}); err != nil {
			return err
		}
	}
	if owner, ok := d.Owner(); ok {
		devguard.Forget(owner, name)
		closeImages(d)
		closeExport()
		return exportroot.PutBack(owner, name)
	}
	return nil
}

// hookStarted runs when a VM has started.
func hookStarted(name string, stdin io.Reader) error {
	d, err := definition.ReadVM(stdin)
	if err != nil {
		return err
	}
	if owner, ok := d.Owner(); ok {
		exportroot.Settle(owner, name)
		devguard.Guard(owner, name, d.ID)
	}
	return nil
}
