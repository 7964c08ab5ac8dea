package virt

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"net/netip"

	libvirt "github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"
)

// Network holds what aivm uses of one libvirt network.
type Network struct {
	Name, UUID string
	Active     bool
	Autostart  bool
	Mark       Mark
	Bridge     string
	Gateway    netip.Addr   // first IPv4 address of the bridge
	Subnet     netip.Prefix // masked
	Hosts      []Reservation
	HostsFile  bool          // by its definition, dnsmasq answers with names of the host's /etc/hosts
	Leases     []Reservation // DHCP leases that have not expired; only for aivm's networks
}

// Reservation binds an IP address to a MAC address in a network's DHCP server.
type Reservation struct {
	MAC, Name string
	IP        netip.Addr
}

// Network returns the network with this name; ErrNotFound if there is none.
func (c *Conn) Network(ctx context.Context, name string) (*Network, error) {
	var out *Network
	err := c.do(ctx, func() error {
		n, err := c.l.NetworkLookupByName(name)
		if err != nil {
			return err
		}
		out, err = c.describeNetwork(n)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("network %q: %w", name, err)
	}
	return out, nil
}

// Networks returns all networks, including those that aivm did not make.
func (c *Conn) Networks(ctx context.Context) ([]*Network, error) {
	var out []*Network
	err := c.do(ctx, func() error {
		ns, _, err := c.l.ConnectListAllNetworks(1, 0)
		if err != nil {
			return err
		}
		for _, n := range ns {
			k, err := c.describeNetwork(n)
			if errors.Is(translate(err), ErrNotFound) {
				continue // removed since it was listed
			}
			if err != nil {
				return err
			}
			out = append(out, k)
		}
		return nil
	})
	return out, err
}

func (c *Conn) describeNetwork(n libvirt.Network) (*Network, error) {
	desc, err := c.l.NetworkGetXMLDesc(n, 0)
	if err != nil {
		return nil, err
	}
	out, err := ParseNetwork(desc)
	if err != nil {
		return nil, err
	}
	active, err := c.l.NetworkIsActive(n)
	if err != nil {
		return nil, err
	}
	auto, err := c.l.NetworkGetAutostart(n)
	if err != nil {
		return nil, err
	}
	out.Active, out.Autostart = active == 1, auto == 1
	if out.Active && out.HostsFile && out.Mark.Exists {
		// A change made while the network is active shows only in its definition.
		if desc, err := c.l.NetworkGetXMLDesc(n, uint32(libvirt.NetworkXMLInactive)); err == nil {
			if def, err := ParseNetwork(desc); err == nil && def.UUID == out.UUID {
				out.HostsFile = def.HostsFile
			}
		}
	}
	if out.Active && !out.Mark.Exists {
		// libvirt before 9.7 shows the mark of a network that was adopted while active
		// only in its definition, until the network is restarted.
		desc, err := c.l.NetworkGetXMLDesc(n, uint32(libvirt.NetworkXMLInactive))
		if err == nil {
			if def, err := ParseNetwork(desc); err == nil && def.UUID == out.UUID {
				out.Mark, out.HostsFile = def.Mark, def.HostsFile
			}
		} else if !errors.Is(translate(err), ErrNotFound) && !isCode(err, libvirt.ErrOperationInvalid) {
			return nil, err
		}
	}
	if out.Active && out.Mark.Exists {
		leases, _, err := c.l.NetworkGetDhcpLeases(n, nil, 1, 0)
		if err != nil {
			return nil, err
		}
		out.Leases = readLeases(leases)
	}
	return out, nil
}

// readLeases returns the leases that have one MAC address and a valid IP address. Their
// host names are left out, since guests choose them.
func readLeases(leases []libvirt.NetworkDhcpLease) []Reservation {
	var out []Reservation
	for _, l := range leases {
		if ip, err := netip.ParseAddr(l.Ipaddr); err == nil && len(l.Mac) == 1 {
			out = append(out, Reservation{MAC: l.Mac[0], IP: ip})
		}
	}
	return out
}

// ParseNetwork parses a network's XML as libvirt prints it.
func ParseNetwork(desc string) (*Network, error) {
	var x libvirtxml.Network
	if err := x.Unmarshal(desc); err != nil {
		return nil, fmt.Errorf("reading network XML: %w", err)
	}
	out := &Network{Name: x.Name, UUID: x.UUID, HostsFile: readsHosts(x)}
	if x.Metadata != nil {
		out.Mark = parseMark(x.Metadata.XML)
	}
	if x.Bridge != nil {
		out.Bridge = x.Bridge.Name
	}
	for _, ip := range x.IPs {
		a, err := netip.ParseAddr(ip.Address)
		if err != nil || !a.Is4() {
			continue
		}
		bits := int(ip.Prefix)
		if bits == 0 && ip.Netmask != "" {
			if m, err := netip.ParseAddr(ip.Netmask); err == nil && m.Is4() {
				bits = maskBits(m)
			}
		}
		if p, err := a.Prefix(bits); err == nil && !out.Subnet.IsValid() {
			out.Gateway, out.Subnet = a, p
		}
		if ip.DHCP != nil {
			for _, h := range ip.DHCP.Hosts {
				if hip, err := netip.ParseAddr(h.IP); err == nil {
					out.Hosts = append(out.Hosts, Reservation{MAC: h.MAC, Name: h.Name, IP: hip})
				}
			}
		}
	}
	return out, nil
}

// maskBits counts the leading one bits of an IPv4 netmask in each byte.
func maskBits(m netip.Addr) int {
	n := 0
	for _, b := range m.As4() {
		for ; b&0x80 != 0; b <<= 1 {
			n++
		}
	}
	return n
}

// DefineNetwork defines a persistent network.
func (c *Conn) DefineNetwork(ctx context.Context, desc string) error {
	return c.do(ctx, func() error { _, err := c.l.NetworkDefineXML(desc); return err })
}

// StartNetwork starts a network and makes it start with the daemon. Several processes may
// do this at the same time.
func (c *Conn) StartNetwork(ctx context.Context, name string) error {
	return c.withNetwork(ctx, name, func(n libvirt.Network) error {
		active, err := c.l.NetworkIsActive(n)
		if err != nil {
			return err
		}
		if active == 0 {
			if err := c.l.NetworkCreate(n); err != nil {
				if active, aerr := c.l.NetworkIsActive(n); aerr != nil || active == 0 {
					return err
				}
			}
		}
		return c.l.NetworkSetAutostart(n, 1)
	})
}

// RemoveNetwork stops a network and removes its definition. A missing network is not an
// error.
func (c *Conn) RemoveNetwork(ctx context.Context, name string) error {
	err := c.withNetwork(ctx, name, func(n libvirt.Network) error {
		active, err := c.l.NetworkIsActive(n)
		if err != nil {
			return err
		}
		if active == 1 {
			if err := c.l.NetworkDestroy(n); err != nil {
				return err
			}
		}
		return c.l.NetworkUndefine(n)
	})
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

type hostXML struct {
	XMLName xml.Name `xml:"host"`
	MAC     string   `xml:"mac,attr"`
	Name    string   `xml:"name,attr,omitempty"`
	IP      string   `xml:"ip,attr"`
}

// Reserve adds a DHCP reservation to the definition and, if active, the running network.
// Old libvirt daemons expect the parameters of NetworkUpdate swapped;
// NetworkUpdateCompat takes care of that.
func (c *Conn) Reserve(ctx context.Context, network string, r Reservation) error {
	return c.updateHost(ctx, network, libvirt.NetworkUpdateCommandAddLast, r)
}

// Unreserve removes a DHCP reservation. A missing reservation is not an error.
func (c *Conn) Unreserve(ctx context.Context, network string, r Reservation) error {
	err := c.updateHost(ctx, network, libvirt.NetworkUpdateCommandDelete, r)
	if isCode(err, libvirt.ErrOperationInvalid) {
		return nil
	}
	return err
}

func (c *Conn) updateHost(ctx context.Context, network string, cmd libvirt.NetworkUpdateCommand, r Reservation) error {
	b, err := xml.Marshal(hostXML{MAC: r.MAC, Name: r.Name, IP: r.IP.String()})
	if err != nil {
		return err
	}
	return c.withNetwork(ctx, network, func(n libvirt.Network) error {
		flags := libvirt.NetworkUpdateAffectConfig
		if active, err := c.l.NetworkIsActive(n); err != nil {
			return err
		} else if active == 1 {
			flags |= libvirt.NetworkUpdateAffectLive
		}
		return c.l.NetworkUpdateCompat(n, cmd, libvirt.NetworkSectionIPDhcpHost, -1, string(b), flags)
	})
}

func (c *Conn) withNetwork(ctx context.Context, name string, f func(libvirt.Network) error) error {
	err := c.do(ctx, func() error {
		n, err := c.l.NetworkLookupByName(name)
		if err != nil {
			return err
		}
		return f(n)
	})
	if err != nil {
		return fmt.Errorf("network %q: %w", name, err)
	}
	return nil
}
