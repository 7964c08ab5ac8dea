package policy

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// always4 lists the addresses of cloud metadata services, which hand out a machine's
// credentials. They are blocked regardless of the config: the link-local address of most
// clouds, Alibaba's, Oracle's old one, and Azure's, which is a public address.
var always4 = prefixes("169.254.169.254/32", "100.100.100.200/32", "192.0.0.192/32", "168.63.129.16/32")

// always6 lists the IPv6 ranges of private networks, and those that a translator maps to
// IPv4 addresses (NAT64, 6to4). They are blocked regardless of the config, since old
// configs list only IPv4 networks. The documentation ranges are not blocked, because the
// mirrors of test machines use them.
var always6 = prefixes("::/127", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16",
	"fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8")

func prefixes(ss ...string) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(ss))
	for _, s := range ss {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// Blocked returns the networks guests may not reach, by family, sorted and without those
// that another one contains: the policy's Block list, what is always blocked, the guests'
// own subnet, and local, the networks the host is connected to.
func (n Network) Blocked(local []netip.Prefix) (four, six []netip.Prefix) {
	all := slices.Concat(n.Block, always4, always6, local, []netip.Prefix{n.Subnet})
	return family(all, false), family(all, true)
}

// family returns the prefixes of one family, sorted and without those that another one
// contains, since nftables refuses overlapping elements in a set.
func family(ps []netip.Prefix, six bool) []netip.Prefix {
	var in []netip.Prefix
	for _, p := range ps {
		if p.Addr().Is6() == six {
			in = append(in, p.Masked())
		}
	}
	slices.SortFunc(in, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	var out []netip.Prefix
	for _, p := range in {
		if n := len(out); n == 0 || !out[n-1].Contains(p.Addr()) {
			out = append(out, p)
		}
	}
	return out
}

// OpenPorts returns the host's ports that are open to guests, sorted; ranges that touch or
// overlap are merged.
func (n Network) OpenPorts() []Ports {
	in := slices.Clone(n.Ports)
	slices.SortFunc(in, func(a, b Ports) int {
		return cmp.Or(strings.Compare(a.Proto, b.Proto), cmp.Compare(a.First, b.First))
	})
	var joined []Ports
	for _, p := range in {
		if k := len(joined); k > 0 && joined[k-1].Proto == p.Proto && int(p.First) <= int(joined[k-1].Last)+1 {
			joined[k-1].Last = max(joined[k-1].Last, p.Last)
			continue
		}
		joined = append(joined, p)
	}
	return joined
}

// normalForm is a policy with its lists sorted and without repetitions and overlaps.
type normalForm struct {
	table, bridge string
	subnet        netip.Prefix
	gateway       netip.Addr
	four, six     []netip.Prefix
	ports         []Ports
	lan           []Endpoint
	addresses     []Guest // all guests, without Port
	places        []Guest // guests with a Port, without IP
}

// normalize returns the normal form, which is equal for policies with equal rules.
func (n Network) normalize() normalForm {
	m := normalForm{table: n.Table(), bridge: n.Bridge, subnet: n.Subnet, gateway: n.Gateway, ports: n.OpenPorts(), lan: set(n.LAN)}
	m.four, m.six = n.Blocked(nil)
	for _, g := range n.Guests {
		m.addresses = append(m.addresses, Guest{MAC: g.MAC, IP: g.IP})
		if g.Port != "" {
			m.places = append(m.places, Guest{MAC: g.MAC, Port: g.Port})
		}
	}
	m.addresses, m.places = set(m.addresses), set(m.places)
	return m
}

// set returns a sorted list without repetitions; nil if it is empty.
func set[T interface {
	comparable
	key() string
}](in []T) []T {
	if len(in) == 0 {
		return nil
	}
	out := slices.Clone(in)
	slices.SortFunc(out, func(a, b T) int { return strings.Compare(a.key(), b.key()) })
	return slices.Compact(out)
}

func (e Endpoint) key() string { return e.Proto + " " + e.String() }

func (g Guest) key() string { return g.MAC + " " + g.IP.String() + " " + g.Port }
