package record

import (
	"encoding/xml"
	"fmt"
	"slices"
	"strings"

	libvirt "github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"
)

// virtNetwork is a libvirt network.
type virtNetwork struct {
	name      string
	uuid      libvirt.UUID
	x         *libvirtxml.Network
	active    bool
	autostart bool
	leases    []libvirt.NetworkDhcpLease
}

func (n *virtNetwork) ref() libvirt.Network { return libvirt.Network{Name: n.name, UUID: n.uuid} }

func (l *libvirtd) networkNamed(name string) *virtNetwork {
	for _, n := range l.networks {
		if n.name == name {
			return n
		}
	}
	return nil
}

func (l *libvirtd) network(ref libvirt.Network) (*virtNetwork, error) {
	for _, n := range l.networks {
		if n.uuid == ref.UUID {
			return n, nil
		}
	}
	return nil, fail(libvirt.ErrNoNetwork, "Network not found: no network with matching uuid '%s' (%s)", uuidText(ref.UUID), ref.Name)
}

func (l *libvirtd) defineNetwork(text string) (*virtNetwork, error) {
	var x libvirtxml.Network
	if err := x.Unmarshal(text); err != nil {
		return nil, fail(libvirt.ErrXMLError, "%v", err)
	}
	n := l.networkNamed(x.Name)
	if n == nil {
		n = &virtNetwork{name: x.Name}
		l.networks = append(l.networks, n)
	}
	if x.UUID == "" {
		x.UUID = uuidText(uuidOf("network " + x.Name))
	}
	if x.Metadata != nil {
		var b strings.Builder
		for _, e := range parseMeta(x.Metadata.XML) {
			b.WriteString(e.marked())
		}
		x.Metadata.XML = b.String()
	}
	n.uuid, n.x = uuidOf(x.UUID), &x
	return n, nil
}

// lease adds a DHCP lease, as after a boot.
func (n *virtNetwork) lease(mac, ip, name string) {
	n.leases = append(n.leases, libvirt.NetworkDhcpLease{
		Iface: n.x.Bridge.Name, Expirytime: 1795993081, Type: 0, Mac: libvirt.OptString{mac}, Ipaddr: ip, Prefix: 24, Hostname: libvirt.OptString{name},
	})
}

func (l *libvirtd) withNetwork(ref libvirt.Network, what string, f func(*virtNetwork) error) error {
	n, err := l.network(ref)
	if err != nil {
		return err
	}
	if what != "" {
		l.note(what+" "+n.name, "")
	}
	return f(n)
}

func (l *libvirtd) networkCalls() {
	on(l, 46, func(a libvirt.NetworkLookupByNameArgs) (r libvirt.NetworkLookupByNameRet, err error) {
		n := l.networkNamed(a.Name)
		if n == nil {
			return r, fail(libvirt.ErrNoNetwork, "Network not found: no network with matching name '%s'", a.Name)
		}
		return libvirt.NetworkLookupByNameRet{Net: n.ref()}, nil
	})
	on(l, 283, func(libvirt.ConnectListAllNetworksArgs) (r libvirt.ConnectListAllNetworksRet, err error) {
		for _, n := range l.networks {
			r.Nets = append(r.Nets, n.ref())
		}
		r.Ret = uint32(len(r.Nets))
		return r, nil
	})
	on(l, 43, func(a libvirt.NetworkGetXMLDescArgs) (r libvirt.NetworkGetXMLDescRet, err error) {
		n, err := l.network(a.Net)
		if err != nil {
			return r, err
		}
		r.XML, err = n.x.Marshal()
		return r, err
	})
	on(l, 152, func(a libvirt.NetworkIsActiveArgs) (r libvirt.NetworkIsActiveRet, err error) {
		n, err := l.network(a.Net)
		if err == nil && n.active {
			r.Active = 1
		}
		return r, err
	})
	on(l, 44, func(a libvirt.NetworkGetAutostartArgs) (r libvirt.NetworkGetAutostartRet, err error) {
		n, err := l.network(a.Net)
		if err == nil && n.autostart {
			r.Autostart = 1
		}
		return r, err
	})
	on(l, 48, func(a libvirt.NetworkSetAutostartArgs) (none, error) {
		return none{}, l.withNetwork(a.Net, "", func(n *virtNetwork) error { n.autostart = a.Autostart != 0; return nil })
	})
	on(l, 341, func(a libvirt.NetworkGetDhcpLeasesArgs) (r libvirt.NetworkGetDhcpLeasesRet, err error) {
		n, err := l.network(a.Net)
		if err != nil {
			return r, err
		}
		for _, k := range n.leases {
			if len(a.Mac) == 0 || a.Mac[0] == k.Mac[0] {
				r.Leases = append(r.Leases, k)
			}
		}
		r.Ret = uint32(len(r.Leases))
		return r, nil
	})
	on(l, 41, func(a libvirt.NetworkDefineXMLArgs) (r libvirt.NetworkDefineXMLRet, err error) {
		l.note("define network", a.XML)
		n, err := l.defineNetwork(a.XML)
		if err == nil {
			r.Net = n.ref()
		}
		return r, err
	})
	on(l, 39, func(a libvirt.NetworkCreateArgs) (none, error) {
		return none{}, l.withNetwork(a.Net, "start network", func(n *virtNetwork) error { n.active = true; return nil })
	})
	on(l, 42, func(a libvirt.NetworkDestroyArgs) (none, error) {
		return none{}, l.withNetwork(a.Net, "stop network", func(n *virtNetwork) error { n.active, n.leases = false, nil; return nil })
	})
	on(l, 49, func(a libvirt.NetworkUndefineArgs) (none, error) {
		return none{}, l.withNetwork(a.Net, "undefine network", func(n *virtNetwork) error {
			l.networks = slices.DeleteFunc(l.networks, func(o *virtNetwork) bool { return o == n })
			return nil
		})
	})
	on(l, 444, func(a libvirt.NetworkSetMetadataArgs) (none, error) {
		// The simulated libvirt 9.0 does not have this call.
		return none{}, fail(libvirt.ErrNoSupport, "this function is not supported by the connection driver: virNetworkSetMetadata")
	})
	on(l, 291, func(a libvirt.NetworkUpdateArgs) (none, error) {
		var h struct {
			XMLName xml.Name `xml:"host"`
			MAC     string   `xml:"mac,attr"`
			Name    string   `xml:"name,attr"`
			IP      string   `xml:"ip,attr"`
		}
		if err := xml.Unmarshal([]byte(a.XML), &h); err != nil {
			return none{}, err
		}
		return none{}, l.withNetwork(a.Net, fmt.Sprintf("update (command %d, flags %d) network", a.Command, a.Flags), func(n *virtNetwork) error {
			l.note("host", a.XML)
			if len(n.x.IPs) == 0 {
				return fail(libvirt.ErrOperationInvalid, "no address")
			}
			ip := &n.x.IPs[0]
			if ip.DHCP == nil {
				ip.DHCP = &libvirtxml.NetworkDHCP{}
			}
			before := len(ip.DHCP.Hosts)
			ip.DHCP.Hosts = slices.DeleteFunc(ip.DHCP.Hosts, func(o libvirtxml.NetworkDHCPHost) bool { return o.MAC == h.MAC })
			if a.Command == uint32(libvirt.NetworkUpdateCommandDelete) {
				if len(ip.DHCP.Hosts) == before {
					return fail(libvirt.ErrOperationInvalid, "Requested operation is not valid: couldn't locate a matching dhcp host entry in network '%s'", n.name)
				}
				return nil
			}
			ip.DHCP.Hosts = append(ip.DHCP.Hosts, libvirtxml.NetworkDHCPHost{MAC: h.MAC, Name: h.Name, IP: h.IP})
			return nil
		})
	})
}
