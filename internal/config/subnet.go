package config

import (
	"encoding/binary"
	"fmt"
	"iter"
	"net/netip"
	"strings"
)

// A network has between minBits and maxBits bits in common: 16 million addresses, or 6.
const minBits, maxBits = 8, 29

// OnSubnet returns s with the subnet p and the gateway and DHCP range that follow from it.
func (s NetworkSpec) OnSubnet(p netip.Prefix) NetworkSpec {
	s.SubnetCIDR, s.GatewayIP, s.DHCPStart, s.DHCPEnd = p.Masked().String(), "", "", ""
	return s.Filled()
}

// Filled returns s with the values that follow from its subnet where it has none: the gateway is the
// first address, guests that are not aivm's VMs get .100 to .200, as with aivm 0.3, and in a subnet
// smaller than a /24 the last quarter. The VMs' addresses are outside that range.
func (s NetworkSpec) Filled() NetworkSpec {
	p, err := s.subnet()
	if err != nil || p.Bits() < minBits || p.Bits() > maxBits {
		return s
	}
	n := uint32(1) << (32 - p.Bits())
	first, last := n*3/4, n-2
	if p.Bits() <= 24 {
		first, last = 100, 200
	}
	if s.GatewayIP == "" {
		s.GatewayIP = offset(p, 1).String()
	}
	// Without the gateway, from the side on which fewer addresses are lost.
	if g, err := netip.ParseAddr(s.GatewayIP); err == nil && p.Contains(g) {
		switch at := index(p, g); {
		case at < first || at > last:
		case first == last:
			first, last = at-1, at-1
		case at-first >= last-at:
			last = at - 1
		default:
			first = at + 1
		}
	}
	start, err1 := netip.ParseAddr(s.DHCPStart)
	end, err2 := netip.ParseAddr(s.DHCPEnd)
	switch {
	case s.DHCPStart == "" && s.DHCPEnd == "":
		s.DHCPStart, s.DHCPEnd = offset(p, first).String(), offset(p, last).String()
	case s.DHCPEnd == "" && err1 == nil && p.Contains(start):
		if index(p, start) > last {
			last = n - 2
		}
		if s.DHCPEnd = offset(p, last).String(); s.DHCPEnd == s.GatewayIP && index(p, start) < last {
			s.DHCPEnd = offset(p, last-1).String()
		}
	case s.DHCPStart == "" && err2 == nil && p.Contains(end):
		s.DHCPStart = offset(p, min(first, index(p, end))).String()
	}
	return s
}

// Misfit returns the first key whose value does not fit the others, and what is wrong with it, worded
// to follow the key; "" if all fit. Values that are not addresses at all are not its concern.
func (s NetworkSpec) Misfit() (key, problem string) {
	p, err := s.subnet()
	if err != nil {
		return "", ""
	}
	if p.Bits() < minBits || p.Bits() > maxBits {
		return "subnet_cidr", fmt.Sprintf("must be from /%d to /%d, so that there is room for VMs, not %q", minBits, maxBits, s.SubnetCIDR)
	}
	at := map[string]netip.Addr{}
	for _, k := range []struct{ key, value string }{{"gateway_ip", s.GatewayIP}, {"dhcp_start", s.DHCPStart}, {"dhcp_end", s.DHCPEnd}} {
		a, err := netip.ParseAddr(k.value)
		if err != nil {
			return "", ""
		}
		low, high := offset(p, 1), offset(p, 1<<(32-p.Bits())-2)
		if !p.Contains(a) || a.Less(low) || high.Less(a) {
			return k.key, fmt.Sprintf("must be an address of subnet_cidr %q, from %s to %s, not %q", s.SubnetCIDR, low, high, k.value)
		}
		at[k.key] = a
	}
	switch g, start, end := at["gateway_ip"], at["dhcp_start"], at["dhcp_end"]; {
	case end.Less(start):
		return "dhcp_end", fmt.Sprintf("must not be below dhcp_start %q, and is %q", s.DHCPStart, s.DHCPEnd)
	case !g.Less(start) && !end.Less(g):
		return "gateway_ip", fmt.Sprintf("must not be in the DHCP range, from dhcp_start %q to dhcp_end %q, and is %q", s.DHCPStart, s.DHCPEnd, s.GatewayIP)
	}
	return "", ""
}

// NoRoom does what Misfit does for a DHCP range that leaves no address for a VM. The VM of an adopted
// network may have one in the range.
func (s NetworkSpec) NoRoom() (key, problem string) {
	p, err := s.subnet()
	if err != nil {
		return "", ""
	}
	for range s.VMAddresses(p) {
		return "", ""
	}
	return "dhcp_start", fmt.Sprintf("must leave an address of subnet_cidr %q outside the DHCP range for each VM, and is %q, with dhcp_end %q", s.SubnetCIDR, s.DHCPStart, s.DHCPEnd)
}

// VMAddresses yields the addresses of the subnet p that a VM can have, in order: not the gateway, the
// DHCP range, the first and the last address, nor, in a /24 or larger, those that end in less than 10.
func (s NetworkSpec) VMAddresses(p netip.Prefix) iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		p = p.Masked()
		start, err1 := netip.ParseAddr(s.DHCPStart)
		end, err2 := netip.ParseAddr(s.DHCPEnd)
		ranged := err1 == nil && err2 == nil
		for a := p.Addr().Next(); p.Contains(a) && p.Contains(a.Next()); a = a.Next() {
			if ranged && !a.Less(start) && !end.Less(a) {
				a = end // a range can have millions
				continue
			}
			if p.Bits() <= 24 && a.As4()[3] < 10 || a.String() == s.GatewayIP {
				continue
			}
			if !yield(a) {
				return
			}
		}
	}
}

// subnet returns the IPv4 subnet of s.
func (s NetworkSpec) subnet() (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s.SubnetCIDR)
	if err == nil && !p.Addr().Is4() {
		err = fmt.Errorf("%s is not an IPv4 network", p)
	}
	return p.Masked(), err
}

// offset returns the n-th address of p, which is an IPv4 network.
func offset(p netip.Prefix, n uint32) netip.Addr {
	var b [4]byte
	base := p.Masked().Addr().As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(base[:])+n)
	return netip.AddrFrom4(b)
}

// index is the inverse of offset, for an address of p.
func index(p netip.Prefix, a netip.Addr) uint32 {
	base, b := p.Masked().Addr().As4(), a.As4()
	return binary.BigEndian.Uint32(b[:]) - binary.BigEndian.Uint32(base[:])
}

// network completes the network of table n: keys that the file does not have, or has empty, follow
// from the subnet, if it has that, else they are the default.
func (b *binder) network(n *node, s *NetworkSpec) {
	if n == nil || n.shape != isTable {
		return
	}
	d := defaultNetworkSpec()
	given := func(key string) bool {
		k := n.child(key)
		return k != nil && k.val != ""
	}
	for _, k := range []struct {
		key       string
		to        *string
		otherwise string
	}{
		{"bridge", &s.Bridge, d.Bridge},
		{"subnet_cidr", &s.SubnetCIDR, d.SubnetCIDR},
		{"gateway_ip", &s.GatewayIP, ""},
		{"dhcp_start", &s.DHCPStart, ""},
		{"dhcp_end", &s.DHCPEnd, ""},
	} {
		if !given(k.key) {
			*k.to = k.otherwise
		}
	}
	*s = s.Filled()
}

// networks completes the network of [defaults] and those of the records, and reports values that do
// not fit together. In a record that is a warning: its network may exist and work, with the values
// from which it was created.
func (b *binder) networks(c *Config) {
	if n := b.doc.root.child("defaults").sub("network"); n != nil {
		if c.Defaults.Network.Name == "" {
			c.Defaults.Network.Name = defaultNetworkSpec().Name
		}
		b.network(n, &c.Defaults.Network)
		key, problem := c.Defaults.Network.Misfit()
		if key == "" {
			key, problem = c.Defaults.Network.NoRoom()
		}
		if key != "" {
			b.wrong(n.nearest(key), "defaults.network."+key, "%s", problem)
		}
	}
	for i, rec := range b.recordNodes("networks", len(c.Networks)) {
		n, s := rec.sub("network"), &c.Networks[i].Network
		if n == nil {
			continue
		}
		b.network(n, s)
		if key, problem := s.Misfit(); key != "" {
			b.unknown = append(b.unknown, b.newProblem(n.nearest(key), fmt.Sprintf("networks[%d].network.%s", i, key),
				fmt.Sprintf("%s of network %q %s", key, c.Networks[i].Name, problem)))
		}
	}
}

// sub returns the table key of n; nil if n is nil, or has no such table.
func (n *node) sub(key string) *node {
	if n == nil || n.shape != isTable {
		return nil
	}
	if k := n.child(key); k != nil && k.shape == isTable {
		return k
	}
	return nil
}

// nearest returns the position of the value of key, else that of the subnet, else that of n.
func (n *node) nearest(key string) int {
	for _, k := range strings.Fields(key + " subnet_cidr") {
		if kid := n.child(k); kid != nil {
			return kid.valueAt()
		}
	}
	return n.at
}
