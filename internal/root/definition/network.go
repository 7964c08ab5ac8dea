// Package definition reads libvirt's definitions of networks and VMs, as far as
// the privileged helper and the hooks need them: the owner in aivm's mark, network
// interfaces, disks and addresses. It changes none.
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

// NetworkDir is the directory of libvirt's network definitions.
const NetworkDir = "/etc/libvirt/qemu/networks"

// Network holds the parts of a network's definition that aivm reads.
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

// Owners returns the uids in the network's marks of aivm. It ignores marks in another
// namespace or without a valid uid.
func (d Network) Owners() []int {
	var out []int
	for _, m := range d.Marks {
		if owner, err := strconv.Atoi(m.Owner); m.XMLName.Space == MarkSpace && err == nil && owner >= 0 {
			out = append(out, owner)
		}
	}
	return out
}

// MadeFor reports whether aivm made the network for this user and nobody else.
func (d Network) MadeFor(uid int) bool {
	o := d.Owners()
	return len(o) == 1 && o[0] == uid
}

// MarkSpace is the namespace of aivm's mark (internal/virt).
const MarkSpace = "urn:aivm:mark:1"

// AddGuests returns w with the guests that have a reservation in the network.
func (d Network) AddGuests(w wall.Wall) wall.Wall {
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

// ReadNetwork reads a network's persistent definition; fs.ErrNotExist for an
// undefined or transient network.
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

// HookedNetwork reads the network definition that libvirt passes to a hook of the
// network driver. It returns an empty one if the definition cannot be read.
func HookedNetwork(stdin io.Reader) Network {
	var d struct {
		Network Network `xml:"network"`
	}
	_ = xml.NewDecoder(io.LimitReader(stdin, readLimit)).Decode(&d)
	return d.Network
}
