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

// Net is the wall of one libvirt network as it was last put up.
type Net struct {
	Version int            `json:"version"`
	Owner   int            `json:"owner"`          // uid
	UUID    string         `json:"uuid,omitempty"` // libvirt's, of this network and no later one of its name
	Wall    wall.Wall      `json:"wall"`
	Local   []netip.Prefix `json:"local"`  // directly connected subnets, then
	Script  string         `json:"script"` // digest of the rules that were loaded: another aivm makes others of the same wall
	Digest  string         `json:"digest"` // of the tables as the kernel held them right after
}

// ReadNet reads a network's manifest; fs.ErrNotExist when there is
// none. Any user may.
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
		return m, fmt.Errorf("%s is of network %q", rootfile.NetManifestPath(network), m.Wall.Network)
	}
	return m, nil
}

// CheckOwner refuses a network whose manifest is another user's.
func CheckOwner(network string, caller int) error {
	m, err := ReadNet(network)
	switch {
	case errors.Is(err, errNewer):
		return err
	case errors.Is(err, fs.ErrNotExist), caller <= 0:
		return nil // root may mend a damaged one by replacing it
	case err != nil:
		return ui.Refused("%w", err).Hint(ui.Cmd("sudo rm " + rootfile.NetManifestPath(network)))
	case m.Owner != caller:
		return ui.Refused("the wall of network %q belongs to uid %d, not to %d who asks", network, m.Owner, caller)
	}
	return nil
}

// Nets are all manifests of networks that can be read. Any user may
// ask.
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
		// One that is damaged is its network's trouble, and said there.
		if m, err := ReadNet(network); err == nil {
			out = append(out, m)
		}
	}
	return out, nil
}
