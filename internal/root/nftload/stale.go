package nftload

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"aivm.dev/aivm/internal/root/definition"
	"aivm.dev/aivm/internal/root/manifest"
	"aivm.dev/aivm/internal/root/rootfile"
	"aivm.dev/aivm/internal/wall"
)

// isManifestOf reports whether the manifest belongs to this network. The UUID
// distinguishes a network from a later one of its name. The mark identifies a network
// that was defined again for the same user, with another UUID; and the network of a
// manifest of an older aivm that did not record the UUID.
func isManifestOf(m manifest.Net, d definition.Network) bool {
	return m.UUID != "" && m.UUID == d.UUID || d.MadeFor(m.Owner)
}

// isStale reports whether the manifest of a network is stale, because the network that
// has the name now is not aivm's. live is the network as libvirt passes it to the hook,
// possibly empty. isStale also reads the persistent definition, since before libvirt
// 9.7 a mark that was set while the network ran is only there. m is nil for a manifest
// that cannot be read: then any mark of aivm's counts. If neither can be read, the
// network counts as aivm's, so that its firewall is loaded.
func isStale(network string, m *manifest.Net, live definition.Network) bool {
	matches := func(d definition.Network) bool {
		if m == nil {
			return len(d.Owners()) > 0
		}
		return isManifestOf(*m, d)
	}
	if matches(live) {
		return false
	}
	defined, err := definition.ReadNetwork(network)
	switch {
	case err == nil:
		return !matches(defined)
	case errors.Is(err, fs.ErrNotExist):
		return live.UUID != "" // a transient network: live is its complete definition
	}
	return false
}

// removeStale removes the rules and the manifest of a network that no longer exists. A
// failure does not keep the other network from starting; its next start tries again.
func removeStale(ctx context.Context, m manifest.Net) {
	if loadScript(ctx, wall.Removal(m.Wall)) == nil {
		_ = os.Remove(rootfile.NetManifestPath(m.Wall.Network))
	}
}
