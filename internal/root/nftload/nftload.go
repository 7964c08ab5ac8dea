// Package nftload loads the firewalls of networks into nftables and records in their
// manifests a digest of the rules that the kernel then has.
//
// It generates the rules from checked parameters (internal/wall), changes no other
// table, and removes stale rules of networks that no longer exist.
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

// nftLimit is how long nft may take; a transaction usually takes ten milliseconds.
const nftLimit = 20 * time.Second

// LoadWall executes the record: it loads the rules of a network and records them for
// the hook, or removes both. caller is the uid of the user who called sudo, or -1.
func LoadWall(ctx context.Context, o record.Nft, caller int) error {
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
	if oldErr == nil && nowErr == nil && !o.Remove && !isManifestOf(old, now) {
		// The manifest is of an earlier network of that name, maybe another user's.
		if err := loadScript(ctx, wall.Removal(old.Wall)); err != nil {
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
		if err := loadScript(ctx, wall.Removal(o.Wall)); err != nil {
			return err
		}
		if err := os.Remove(rootfile.NetManifestPath(o.Wall.Network)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	if nowErr == nil && now.MadeFor(max(caller, 0)) {
		// Another run may have made a VM after the caller made the record; without its
		// reservation here that VM would lose its network access.
		o.Wall = now.AddGuests(o.Wall)
	}
	owner := max(caller, 0)
	if oldErr == nil {
		owner = old.Owner
		// Only the hook knows the bridge ports, and it may have recorded one after the
		// caller made the record.
		o.Wall = o.Wall.PortsOf(old.Wall)
	}
	if oldErr == nil && old.Wall.Table() != o.Wall.Table() {
		if err := loadScript(ctx, wall.Removal(old.Wall)); err != nil {
			return err
		}
	}
	m := manifest.Net{Version: manifest.Version, Owner: owner, UUID: now.UUID, Wall: o.Wall}
	if nowErr != nil && oldErr == nil {
		m.UUID = old.UUID
	}
	if o.IfUp && oldErr == nil {
		m.Local, m.Script, m.Digest = old.Local, old.Script, old.Digest
		return loadRulesIfUp(ctx, m)
	}
	return loadRules(ctx, m)
}

// loadRulesIfUp loads a manifest's changed rules if the network's rules are loaded
// now; for a stopped network it only writes the manifest.
func loadRulesIfUp(ctx context.Context, m manifest.Net) error {
	if c, err := nftread.Read(m.Wall.Tables()); err == nil && c.Digest == "" {
		return manifest.Write(rootfile.NetManifestPath(m.Wall.Network), m)
	}
	return loadRules(ctx, m)
}

// loadRules loads the firewall of a manifest with the subnets to which this machine is
// connected now, and writes the manifest with the digest of the rules that the kernel
// then has. The caller holds the lock of manifests.
func loadRules(ctx context.Context, m manifest.Net) error {
	var err error
	if m.Local, err = wall.LocalNetworks(); err != nil {
		return err
	}
	if err := loadScript(ctx, wall.Script(m.Wall, m.Local)); err != nil {
		return err
	}
	c, err := nftread.Read(m.Wall.Tables())
	if err != nil {
		return ui.Failed("reading the firewall's rules back: %w", err).Hint(ui.Cmd("sudo nft list ruleset"))
	}
	if c.Digest == "" {
		return ui.Failed("the kernel does not have the rules of network %q after loading them", m.Wall.Network).
			Hint(ui.Remark("another program may be changing rules at the same time; try again"))
	}
	m.Script, m.Digest = wall.Digest(m.Wall, m.Local), c.Digest
	return manifest.Write(rootfile.NetManifestPath(m.Wall.Network), m)
}

func loadScript(ctx context.Context, script string) error {
	ctx, cancel := context.WithTimeout(ctx, nftLimit)
	defer cancel()
	_, err := (program.Command{Argv: []string{"nft", "-f", "-"}, Stdin: []byte(script)}).Run(ctx)
	if err != nil {
		return ui.Failed("loading the firewall's rules: %w", err).Hint(ui.Cmd("aivm host doctor"), ui.Cmd("sudo nft list ruleset"))
	}
	return nil
}

// definedFor compares the record with libvirt's definition of the network: a user's
// helper loads rules only for networks that aivm made for that user, and only for the
// bridge and address in their definition.
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
		// The definition is that of the system's libvirt (qemu:///system).
		return ui.Refused("network %q has another bridge or address than the requested firewall", w.Network).
			Hint(ui.Cmd(virt.URI{}.Virsh("net-dumpxml ") + w.Network))
	}
	return nil
}
