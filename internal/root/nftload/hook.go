package nftload

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"

	"aivm.dev/aivm/internal/root/definition"
	"aivm.dev/aivm/internal/root/manifest"
	"aivm.dev/aivm/internal/root/nftread"
	"aivm.dev/aivm/internal/root/rootfile"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/wall"
)

// PrintRules prints a network's rules, as the kernel has them, as JSON.
func PrintRules(network string, stdout io.Writer) error {
	if !wall.ValidNetwork(network) {
		return ui.Usage("%q is not the name of a network", network)
	}
	m, err := manifest.ReadNet(network)
	if err != nil {
		return err
	}
	c, err := nftread.Read(m.Wall.Tables())
	if err != nil {
		return err
	}
	return json.NewEncoder(stdout).Encode(c)
}

// HookNetwork loads a network's firewall again from its manifest. A network without a
// manifest is not aivm's. live is the network as libvirt passes it to the hook.
func HookNetwork(ctx context.Context, network string, live definition.Network) error {
	return changeWall(ctx, network, live, func(*manifest.Net) error { return nil }, loadRules)
}

// changeWall changes a network's manifest and passes it to apply. For another network
// that has the name of a deleted one of aivm's, it only removes the stale rules.
func changeWall(ctx context.Context, network string, live definition.Network, change func(*manifest.Net) error, apply func(context.Context, manifest.Net) error) error {
	if _, err := os.Lstat(rootfile.NetManifestPath(network)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	release, err := manifest.Lock()
	if err != nil {
		return err
	}
	defer release()
	m, err := manifest.ReadNet(network)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed a moment ago
	}
	if err != nil {
		if isStale(network, nil, live) {
			return nil
		}
		return ui.Failed("reading the firewall of network %q: %w", network, err).
			Hint(ui.Cmd("aivm host fw apply"), ui.CmdFor("to start the network without a firewall", "sudo rm "+rootfile.NetManifestPath(network)))
	}
	if isStale(network, &m, live) {
		removeStale(ctx, m)
		return nil
	}
	if live.UUID != "" {
		m.UUID = live.UUID
	}
	if err := change(&m); err != nil {
		return err
	}
	return apply(ctx, m)
}

// HookPort binds a MAC address to its bridge port when a VM starts, and removes the
// binding when it stops.
func HookPort(ctx context.Context, network, mac, port string, starts bool) error {
	apply := loadRules
	if !starts {
		port, apply = "", loadRulesIfUp // its network may have stopped before it
	}
	return changeWall(ctx, network, definition.Network{}, func(m *manifest.Net) error {
		m.Wall, _ = m.Wall.OnPort(mac, port)
		return m.Wall.Check()
	}, apply)
}

// HookNetworkStopped removes the rules of a stopped network; the manifest stays for its
// next start.
func HookNetworkStopped(ctx context.Context, network string) error {
	release, err := manifest.Lock()
	if err != nil {
		return err
	}
	defer release()
	m, err := manifest.ReadNet(network)
	if err != nil {
		return rootfile.IgnoreMissing(err)
	}
	return loadScript(ctx, wall.Removal(m.Wall))
}
