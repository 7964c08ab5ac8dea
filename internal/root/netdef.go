package root

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"aivm.dev/aivm/internal/wall"
)

// networkXML is where libvirt keeps its networks' definitions.
const networkXML = "/etc/libvirt/qemu/networks"

// networkDef is what is looked at in a network's definition.
type networkDef struct {
	UUID   string `xml:"uuid"`
	Bridge struct {
		Name string `xml:"name,attr"`
	} `xml:"bridge"`
	IPs []struct {
		Address string `xml:"address,attr"`
		Hosts   []struct {
			MAC string `xml:"mac,attr"`
			IP  string `xml:"ip,attr"`
		} `xml:"dhcp>host"`
	} `xml:"ip"`
	Marks []struct {
		XMLName xml.Name
		Owner   string `xml:"owner,attr"`
	} `xml:"metadata>mark"`
}

// owners are the users whose mark the network bears; one that nobody can have
// set by accident is none.
func (d networkDef) owners() []int {
	var out []int
	for _, m := range d.Marks {
		if owner, err := strconv.Atoi(m.Owner); m.XMLName.Space == markSpace && err == nil && owner >= 0 {
			out = append(out, owner)
		}
	}
	return out
}

// madeFor reports whether aivm made the network for this user, and no other.
func (d networkDef) madeFor(uid int) bool {
	o := d.owners()
	return len(o) == 1 && o[0] == uid
}

// markSpace is the namespace of aivm's mark (internal/virt).
const markSpace = "urn:aivm:mark:1"

// guests adds to a wall who has an address kept in the network.
func (d networkDef) guests(w wall.Wall) wall.Wall {
	for _, ip := range d.IPs {
		for _, h := range ip.Hosts {
			mac, merr := net.ParseMAC(h.MAC)
			if a, err := netip.ParseAddr(h.IP); err == nil && merr == nil && len(mac) == 6 && w.Subnet.Contains(a) {
				w = w.With(mac.String(), a)
			}
		}
	}
	return w
}

// definedNetwork reads a network's definition as libvirt keeps it;
// fs.ErrNotExist for one that is not defined, or only runs.
func definedNetwork(name string) (networkDef, error) {
	var d networkDef
	path := filepath.Join(networkXML, name+".xml")
	f, err := os.Open(path)
	if err != nil {
		return d, err
	}
	defer f.Close()
	// libvirt writes a comment before the element; encoding/xml skips it.
	if err := xml.NewDecoder(io.LimitReader(f, hookLimit)).Decode(&d); err != nil {
		return d, fmt.Errorf("reading %s: %w", path, err)
	}
	return d, nil
}

// hookedNetwork is the network libvirt hands to a hook of the network driver;
// nothing, if it hands over none that can be read.
func hookedNetwork(stdin io.Reader) networkDef {
	var d struct {
		Network networkDef `xml:"network"`
	}
	_ = xml.NewDecoder(io.LimitReader(stdin, hookLimit)).Decode(&d)
	return d.Network
}

// of reports whether the manifest is this network's. The UUID tells a network
// from a later one of its name; the mark one that was defined anew, with
// another UUID, for the same user; it also serves manifests of an aivm that
// did not note the UUID.
func (m NetManifest) of(d networkDef) bool {
	return m.UUID != "" && m.UUID == d.UUID || d.madeFor(m.Owner)
}

// left reports whether a manifest is left over, and the network of its name
// that is there now somebody else's. live is what libvirt says of it, as far
// as it does; the definition is asked, too, since before libvirt 9.7 a mark
// that was set while the network ran shows there alone. m is nil for a
// manifest that cannot be read: then any mark of aivm's counts. What cannot be
// told is ours, for then the wall goes up.
func left(network string, m *NetManifest, live networkDef) bool {
	ours := func(d networkDef) bool {
		if m == nil {
			return len(d.owners()) > 0
		}
		return m.of(d)
	}
	if ours(live) {
		return false
	}
	kept, err := definedNetwork(network)
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
func dropLeft(ctx context.Context, m NetManifest) {
	if load(ctx, wall.Removal(m.Wall)) == nil {
		_ = os.Remove(netManifest(m.Wall.Network))
	}
}

// NetManifests are all manifests of networks that can be read. Any user may
// ask.
func NetManifests() ([]NetManifest, error) {
	entries, err := os.ReadDir(ManifestDir)
	if err != nil {
		return nil, ignoreMissing(err)
	}
	var out []NetManifest
	for _, e := range entries {
		network, ok := strings.CutPrefix(e.Name(), "net-")
		network, json := strings.CutSuffix(network, ".json")
		if !ok || !json {
			continue
		}
		// One that is damaged is its network's trouble, and said there.
		if m, err := ReadNetManifest(network); err == nil {
			out = append(out, m)
		}
	}
	return out, nil
}
