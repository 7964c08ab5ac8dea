// Package nftload loads the rules of networks' walls into nftables and notes in
// their manifests what the kernel then holds.
//
// It makes the rules from checked parameters (internal/wall), touches no other
// table, and takes rules away that were left by a network that is gone.
package nftload

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"aivm.dev/aivm/internal/virt"

	"aivm.dev/aivm/internal/root/definition"
	"aivm.dev/aivm/internal/root/manifest"
	"aivm.dev/aivm/internal/root/nftread"
	"aivm.dev/aivm/internal/root/program"
	"aivm.dev/aivm/internal/root/record"
	"aivm.dev/aivm/internal/root/rootfile"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/wall"
)

// nftLimit is long for a transaction that takes ten milliseconds.
const nftLimit = 20 * time.Second

// PutWall loads the rules of a network and records them for the hook.
func PutWall(ctx context.Context, o record.Nft, caller int) error {
	if !o.Remove && caller > 0 {
		if err := definedFor(o.Wall, caller); err != nil {
			return err
		}
	}
	release, err := manifest.Lock()
	if err != nil {
		return err
	}
	defer release()
	old, oldErr := manifest.ReadNet(o.Wall.Network)
	now, nowErr := definition.ReadNetwork(o.Wall.Network)
	if oldErr == nil && nowErr == nil && !o.Remove && !isOf(old, now) {
		// Left over from another network of that name, maybe another user's.
		if err := load(ctx, wall.Removal(old.Wall)); err != nil {
			return err
		}
		oldErr = fs.ErrNotExist
	} else if err := manifest.CheckOwner(o.Wall.Network, caller); err != nil {
		return err
	}
	if o.Remove {
		if oldErr == nil {
			o.Wall = old.Wall
		}
		if err := load(ctx, wall.Removal(o.Wall)); err != nil {
			return err
		}
		if err := os.Remove(rootfile.NetManifestPath(o.Wall.Network)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	if nowErr == nil && now.MadeFor(max(caller, 0)) {
		// Another run may have made a VM since the caller looked: it is not cut
		// off again.
		o.Wall = now.Guests(o.Wall)
	}
	owner := max(caller, 0)
	if oldErr == nil {
		owner = old.Owner
		// Only the hook knows the ports, and it may have learned one since the
		// caller looked.
		o.Wall = o.Wall.PortsOf(old.Wall)
	}
	if oldErr == nil && old.Wall.Table() != o.Wall.Table() {
		if err := load(ctx, wall.Removal(old.Wall)); err != nil {
			return err
		}
	}
	m := manifest.Net{Version: manifest.Version, Owner: owner, UUID: now.UUID, Wall: o.Wall}
	if nowErr != nil && oldErr == nil {
		m.UUID = old.UUID
	}
	if o.IfUp && oldErr == nil {
		m.Local, m.Script, m.Digest = old.Local, old.Script, old.Digest
		return adjust(ctx, m)
	}
	return raise(ctx, m)
}

// adjust puts a changed wall up where it is up already; the rules of a network
// that stopped stay away, and the manifest alone is changed.
func adjust(ctx context.Context, m manifest.Net) error {
	if c, err := nftread.Read(m.Wall.Tables()); err == nil && c.Digest == "" {
		return manifest.Write(rootfile.NetManifestPath(m.Wall.Network), m)
	}
	return raise(ctx, m)
}

// raise puts the wall of a manifest up with the subnets as they are now and
// records what the kernel then holds. The caller holds the lock of manifests.
func raise(ctx context.Context, m manifest.Net) error {
	var err error
	if m.Local, err = wall.LocalNetworks(); err != nil {
		return err
	}
	if err := load(ctx, wall.Script(m.Wall, m.Local)); err != nil {
		return err
	}
	c, err := nftread.Read(m.Wall.Tables())
	if err != nil {
		return ui.Failed("reading the firewall's rules back: %w", err).Hint(ui.Cmd("sudo nft list ruleset"))
	}
	if c.Digest == "" {
		return ui.Failed("the rules of network %q were loaded, and the kernel does not show them", m.Wall.Network).
			Hint(ui.Remark("another program may be changing rules at the same time; try again"))
	}
	m.Script, m.Digest = wall.Digest(m.Wall, m.Local), c.Digest
	return manifest.Write(rootfile.NetManifestPath(m.Wall.Network), m)
}

func load(ctx context.Context, script string) error {
	ctx, cancel := context.WithTimeout(ctx, nftLimit)
	defer cancel()
	_, err := (program.Command{Argv: []string{"nft", "-f", "-"}, Stdin: []byte(script)}).Run(ctx)
	if err != nil {
		return ui.Failed("loading the firewall's rules: %w", err).Hint(ui.Cmd("aivm host doctor"), ui.Cmd("sudo nft list ruleset"))
	}
	return nil
}

// definedFor compares the record with the network's definition, as libvirt
// keeps it: a user's helper puts up walls only for networks aivm made for that
// user, on the bridge and subnet they really have.
func definedFor(w wall.Wall, caller int) error {
	n, err := definition.ReadNetwork(w.Network)
	if err != nil {
		return ui.Refused("network %q is not defined: %w", w.Network, err).Hint(ui.Cmd("aivm vm up NAME"))
	}
	gateway := false
	for _, ip := range n.IPs {
		gateway = gateway || ip.Address == w.Gateway.String()
	}
	switch {
	case !n.MadeFor(caller):
		return ui.Refused("network %q was not made by aivm for uid %d", w.Network, caller)
	case n.Bridge.Name != w.Bridge || !gateway:
		// The definitions root reads are those of the system's libvirt.
		return ui.Refused("network %q has another bridge or address than the firewall's rules were asked for", w.Network).
			Hint(ui.Cmd(virt.URI{}.Virsh("net-dumpxml ") + w.Network))
	}
	return nil
}
