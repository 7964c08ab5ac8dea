package manifest

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"

	"aivm.dev/aivm/internal/root/rootfile"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/wall"
)

// Net is the firewall of one libvirt network as it was last loaded.
type Net struct {
	Version int            `json:"version"`
	Owner   int            `json:"owner"`          // uid
	UUID    string         `json:"uuid,omitempty"` // libvirt's UUID of the network; a later network of that name has another
	Wall    wall.Wall      `json:"wall"`
	Local   []netip.Prefix `json:"local"`  // directly connected subnets when it was loaded
	Script  string         `json:"script"` // digest of the ruleset passed to nft: other versions of aivm generate others
	Digest  string         `json:"digest"` // digest of the tables that the kernel had right after loading
}

// ReadNet reads a network's manifest; fs.ErrNotExist when there is
// none. Any user may call it.
func ReadNet(network string) (Net, error) {
	var m Net
	if err := Read(rootfile.NetManifestPath(network), &m); err != nil {
		return m, err
	}
	if m.Version != Version {
		return m, VersionError(rootfile.NetManifestPath(network), m.Version)
	}
	if err := m.Wall.Check(); err != nil {
		return m, fmt.Errorf("%s: %w", rootfile.NetManifestPath(network), err)
	}
	if m.Wall.Network != network {
		return m, fmt.Errorf("%s belongs to network %q", rootfile.NetManifestPath(network), m.Wall.Network)
	}
	return m, nil
}

// CheckOwner refuses a network whose manifest belongs to another user.
func CheckOwner(network string, caller int) error {
	m, err := ReadNet(network)
	switch {
	case errors.Is(err, errNewer):
		return err
	case errors.Is(err, fs.ErrNotExist), caller <= 0:
		return nil // root may replace a damaged one
	case err != nil:
		return ui.Refused("%w", err).Hint(ui.Cmd("sudo rm " + rootfile.NetManifestPath(network)))
	case m.Owner != caller:
		return ui.Refused("the firewall of network %q belongs to uid %d, not to uid %d, who called sudo", network, m.Owner, caller)
	}
	return nil
}

// Nets returns all manifests of networks that can be read. Any user may call it.
func Nets() ([]Net, error) {
	entries, err := os.ReadDir(rootfile.ManifestDir)
	if err != nil {
		return nil, rootfile.IgnoreMissing(err)
	}
	var out []Net
	for _, e := range entries {
		network, ok := strings.CutPrefix(e.Name(), "net-")
		network, json := strings.CutSuffix(network, ".json")
		if !ok || !json {
			continue
		}
		// A damaged manifest is reported where its network is used.
		if m, err := ReadNet(network); err == nil {
			out = append(out, m)
		}
	}
	return out, nil
}
