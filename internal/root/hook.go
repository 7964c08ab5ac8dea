package root

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"

	"aivm.dev/aivm/internal/root/nftread"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/wall"
)

// RunHook is what libvirt runs (libvirt.org/hooks.html): kind, object's name,
// operation, sub-operation, extra; the object's XML on stdin. An error keeps
// the network or VM from starting. libvirt waits with its locks held, so
// nothing here asks libvirt, and nothing takes long.
//
// "check NETWORK" only reads: it prints what the kernel holds of the network's
// rules, for a user who may not ask it (CheckArgs).
func RunHook(ctx context.Context, args []string, stdin io.Reader, stdout io.Writer) error {
	if os.Geteuid() != 0 {
		return ui.Refused("this is aivm's hook and is run by libvirt").Hint("aivm --help")
	}
	if len(args) == 2 && args[0] == checkVerb {
		return printRules(args[1], stdout)
	}
	if len(args) < 3 {
		return ui.Usage("a libvirt hook has a kind, a name and an operation")
	}
	kind, name, op := args[0], args[1], args[2]
	lockLimit, hookRuns = hookLockLimit, true
	switch kind {
	case "network":
		switch op {
		case "start", "started", "port-created":
			// At "start" the bridge is not there yet, so no guest is on it
			// without rules; later, who flushed them meanwhile is answered.
			return hookWall(ctx, name, hookedNetwork(stdin))
		case "stopped":
			return hookLower(ctx, name)
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
	return []string{HookProgram, HookCommand, checkVerb, network}
}

func printRules(network string, stdout io.Writer) error {
	if !wall.ValidNetwork(network) {
		return ui.Usage("%q is not the name of a network", network)
	}
	m, err := ReadNetManifest(network)
	if err != nil {
		return err
	}
	c, err := nftread.Read(m.Wall.Tables())
	if err != nil {
		return err
	}
	return json.NewEncoder(stdout).Encode(c)
}

// hookWall puts a network's wall up again; a network without one is not ours.
func hookWall(ctx context.Context, network string, live networkDef) error {
	return hookChanged(ctx, network, live, func(*NetManifest) error { return nil }, raise)
}

// hookChanged changes a network's wall, and does with it what put says. Of a
// network that only has the name of one that had a wall, nothing is touched.
func hookChanged(ctx context.Context, network string, live networkDef, change func(*NetManifest) error, put func(context.Context, NetManifest) error) error {
	if _, err := os.Lstat(netManifest(network)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	release, err := manifests()
	if err != nil {
		return err
	}
	defer release()
	m, err := ReadNetManifest(network)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed a moment ago
	}
	if err != nil {
		if left(network, nil, live) {
			return nil
		}
		return ui.Failed("the wall of network %q is not known: %w", network, err).
			Hint("aivm host fw apply", "to start it without: sudo rm "+netManifest(network))
	}
	if left(network, &m, live) {
		dropLeft(ctx, m)
		return nil
	}
	if live.UUID != "" {
		m.UUID = live.UUID
	}
	if err := change(&m); err != nil {
		return err
	}
	return put(ctx, m)
}

// hookPorts binds the VM's cards to the ports libvirt made for them, so that no
// other guest can send under its card and address; when it stops they are let
// go, for libvirt gives a port's name to another VM.
func hookPorts(ctx context.Context, starts bool, stdin io.Reader) error {
	d, err := readHooked(stdin)
	if err != nil {
		return err
	}
	for _, i := range d.Interfaces {
		if i.Source.Network == "" {
			continue
		}
		port, put := i.Target.Dev, raise
		if !starts {
			port, put = "", adjust // its network may have stopped before it
		}
		err := hookChanged(ctx, i.Source.Network, networkDef{}, func(m *NetManifest) error {
			m.Wall, _ = m.Wall.OnPort(i.MAC.Address, port)
			return m.Wall.Check()
		}, put)
		if err != nil {
			return err
		}
	}
	return nil
}

// hookLower takes the rules of a network that stopped away; the manifest stays
// for its next start.
func hookLower(ctx context.Context, network string) error {
	release, err := manifests()
	if err != nil {
		return err
	}
	defer release()
	m, err := ReadNetManifest(network)
	if err != nil {
		return ignoreMissing(err)
	}
	return load(ctx, wall.Removal(m.Wall))
}

// hookGuest runs before a VM starts: the walls of its networks are put up and
// its folders put back, both a second time for a VM that is migrated or
// restored, which is harmless.
func hookGuest(ctx context.Context, name string, stdin io.Reader) error {
	d, err := readHooked(stdin)
	if err != nil {
		return err
	}
	for _, i := range d.Interfaces {
		if i.Source.Network == "" {
			continue
		}
		if err := hookWall(ctx, i.Source.Network, networkDef{}); err != nil {
			return err
		}
	}
	if owner, ok := d.owner(); ok {
		forgetDevices(owner, name)
		closeImages(d)
		closeExport()
		return hookFolders(owner, name)
	}
	return nil
}

// hookStarted runs when a VM has started.
func hookStarted(name string, stdin io.Reader) error {
	d, err := readHooked(stdin)
	if err != nil {
		return err
	}
	if owner, ok := d.owner(); ok {
		hookSettle(owner, name)
		hookDevices(owner, name, d)
	}
	return nil
}

// hooked is what a hook has to know of a VM's definition.
type hooked struct {
	ID    string `xml:"id,attr"` // while it runs
	Marks []struct {
		XMLName xml.Name
		Owner   string `xml:"owner,attr"`
	} `xml:"metadata>mark"`
	Disks []struct {
		Source struct {
			File string `xml:"file,attr"`
		} `xml:"source"`
	} `xml:"devices>disk"`
	Interfaces []struct {
		MAC struct {
			Address string `xml:"address,attr"`
		} `xml:"mac"`
		Source struct {
			Network string `xml:"network,attr"`
		} `xml:"source"`
		Target struct {
			Dev string `xml:"dev,attr"`
		} `xml:"target"`
	} `xml:"devices>interface"`
}

// hookLimit bounds what is read of a definition: libvirt takes 4 MiB of a
// person, and more from a file of its own.
const hookLimit = 64 << 20

func readHooked(stdin io.Reader) (hooked, error) {
	var d hooked
	if err := xml.NewDecoder(io.LimitReader(stdin, hookLimit)).Decode(&d); err != nil {
		return d, fmt.Errorf("reading the VM's definition: %w", err)
	}
	return d, nil
}

// owner is whose VM it is, if it is one of aivm's.
func (d hooked) owner() (int, bool) {
	for _, m := range d.Marks {
		if owner, err := strconv.Atoi(m.Owner); m.XMLName.Space == markSpace && err == nil && owner >= 0 {
			return owner, true
		}
	}
	return 0, false
}
