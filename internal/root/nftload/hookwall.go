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

// PrintRules prints as JSON what the kernel holds of a network's rules.
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

// HookWall puts a network's wall up again; a network without one is not ours.
func HookWall(ctx context.Context, network string, live definition.Network) error {
	return hookChanged(ctx, network, live, func(*manifest.Net) error { return nil }, raise)
}

// hookChanged changes a network's wall, and does with it what put says. Of a
// network that only has the name of one that had a wall, nothing is touched.
func hookChanged(ctx context.Context, network string, live definition.Network, change func(*manifest.Net) error, put func(context.Context, manifest.Net) error) error {
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
		if left(network, nil, live) {
			return nil
		}
		return ui.Failed("the wall of network %q is not known: %w", network, err).
			Hint(ui.Cmd("aivm host fw apply"), ui.CmdFor("to start it without", "sudo rm "+rootfile.NetManifestPath(network)))
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

// HookPort binds one card to its port, or lets it go.
func HookPort(ctx context.Context, network, mac, port string, starts bool) error {
	put := raise
	if !starts {
		port, put = "", adjust // its network may have stopped before it
	}
	return hookChanged(ctx, network, definition.Network{}, func(m *manifest.Net) error {
		m.Wall, _ = m.Wall.OnPort(mac, port)
		return m.Wall.Check()
	}, put)
}

// HookLower takes the rules of a network that stopped away; the manifest stays
// for its next start.
func HookLower(ctx context.Context, network string) error {
	release, err := manifest.Lock()
	if err != nil {
		return err
	}
	defer release()
	m, err := manifest.ReadNet(network)
	if err != nil {
		return rootfile.IgnoreMissing(err)
	}
	return load(ctx, wall.Removal(m.Wall))
}
