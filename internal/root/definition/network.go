// Package definition reads libvirt's definitions of networks and VMs, as far as
// the privileged helper and the hooks need them: whose mark they bear, which
// cards, disks and addresses they have. It changes none.
package definition

import (
	"encoding/xml"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"

	"aivm.dev/aivm/internal/wall"
)

// NetworkDir is where libvirt keeps its networks' definitions.
const NetworkDir = "/etc/libvirt/qemu/networks"

// Network is what is looked at in a network's definition.
type Network struct {
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

// Owners are the users whose mark the network bears; one that nobody can have
// set by accident is none.
func (d Network) Owners() []int {
	var out []int
	for _, m := range d.Marks {
		if owner, err := strconv.Atoi(m.Owner); m.XMLName.Space == MarkSpace && err == nil && owner >= 0 {
			out = append(out, owner)
		}
	}
	return out
}

// MadeFor reports whether aivm made the network for this user, and no other.
func (d Network) MadeFor(uid int) bool {
	o := d.Owners()
	return len(o) == 1 && o[0] == uid
}

// MarkSpace is the namespace of aivm's mark (internal/virt).
const MarkSpace = "urn:aivm:mark:1"

// Guests adds to a wall who has an address kept in the network.
func (d Network) Guests(w wall.Wall) wall.Wall {
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

// ReadNetwork reads a network's definition as libvirt keeps it;
// fs.ErrNotExist for one that is not defined, or only runs.
func ReadNetwork(name string) (Network, error) {
	var d Network
	path := filepath.Join(NetworkDir, name+".xml")
	f, err := os.Open(path)
	if err != nil {
		return d, err
	}
	defer f.Close()
	// libvirt writes a comment before the element; encoding/xml skips it.
	if err := xml.NewDecoder(io.LimitReader(f, readLimit)).Decode(&d); err != nil {
		return d, fmt.Errorf("reading %s: %w", path, err)
	}
	return d, nil
}

// HookedNetwork is the network libvirt hands to a hook of the network driver;
// nothing, if it hands over none that can be read.
func HookedNetwork(stdin io.Reader) Network {
	var d struct {
		Network Network `xml:"network"`
	}
	_ = xml.NewDecoder(io.LimitReader(stdin, readLimit)).Decode(&d)
	return d.Network
}
