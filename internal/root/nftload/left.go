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

// isOf reports whether the manifest is this network's. The UUID tells a network
// from a later one of its name; the mark one that was defined anew, with
// another UUID, for the same user; it also serves manifests of an aivm that
// did not note the UUID.
func isOf(m manifest.Net, d definition.Network) bool {
	return m.UUID != "" && m.UUID == d.UUID || d.MadeFor(m.Owner)
}

// left reports whether a manifest is left over, and the network of its name
// that is there now somebody else's. live is what libvirt says of it, as far
// as it does; the definition is asked, too, since before libvirt 9.7 a mark
// that was set while the network ran shows there alone. m is nil for a
// manifest that cannot be read: then any mark of aivm's counts. What cannot be
// told is ours, for then the wall goes up.
func left(network string, m *manifest.Net, live definition.Network) bool {
	ours := func(d definition.Network) bool {
		if m == nil {
			return len(d.Owners()) > 0
		}
		return isOf(*m, d)
	}
	if ours(live) {
		return false
	}
	kept, err := definition.ReadNetwork(network)
	switch {
	case err == nil:
		return !ours(kept)
	case errors.Is(err, fs.ErrNotExist):
		return live.UUID != "" // a network that only runs: all of it was seen
	}
	return false
}

// dropLeft takes away what is left of a network that is no more. It keeps
// nobody's network from starting: what cannot be taken away now is tried again
// at the next start.
func dropLeft(ctx context.Context, m manifest.Net) {
	if load(ctx, wall.Removal(m.Wall)) == nil {
		_ = os.Remove(rootfile.NetManifestPath(m.Wall.Network))
	}
}
