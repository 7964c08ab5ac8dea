// Package public decides which addresses are on the public internet.
//
// It is pure: the addresses of this machine are passed in. A guest with network access
// reaches public addresses only: never this machine, its LAN, or a metadata service.
package public

import (
	"net"
	"net/netip"
)

// refused4 are the IPv4 ranges that are not on the public internet. The ranges for
// documentation (192.0.2.0/24, 198.51.100.0/24, 203.0.113.0/24) are not among them: no
// router leads there, and test networks put their mirrors there.
var refused4 = prefixes(
	"0.0.0.0/8",        // this network; Linux connects 0.0.0.0 to itself
	"10.0.0.0/8",       // private
	"100.64.0.0/10",    // carrier NAT, Tailscale, Alibaba's metadata service
	"127.0.0.0/8",      // loopback
	"168.63.129.16/32", // Azure's host agent, reachable from every VM there
	"169.254.0.0/16",   // link-local, metadata services
	"172.16.0.0/12",    // private
	"192.0.0.0/24",     // protocol assignments, Oracle's metadata service, our own link
	"192.88.99.0/24",   // 6to4 relays
	"192.168.0.0/16",   // private
	"198.18.0.0/15",    // benchmarks; local proxies answer with these
	"224.0.0.0/4",      // multicast
	"240.0.0.0/4",      // reserved, and the broadcast address
)

// global6 is the IPv6 range from which public addresses are assigned, refused6 the parts
// of it that are not public or hold an IPv4 address.
var (
	global6  = netip.MustParsePrefix("2000::/3")
	refused6 = prefixes(
		"2001::/23",     // protocol assignments, Teredo
		"2001:db8::/32", // documentation
		"2002::/16",     // 6to4: holds an IPv4 address
		"3fff::/20",     // documentation
	)
)

// Allowed reports whether a is on the public internet. Addresses that hold an IPv4
// address (IPv4-mapped, NAT64, 6to4, Teredo) are all refused.
func Allowed(a netip.Addr) bool {
	switch {
	case !a.IsValid() || a.Zone() != "":
		return false
	case a.Is4():
		return !contains(refused4, a)
	}
	return global6.Contains(a) && !contains(refused6, a)
}

// Machine holds the addresses of a machine and the subnets it is directly connected to.
// The zero value holds none.
type Machine struct{ subnets []netip.Prefix }

// Connected returns the machine with the given interface addresses, as
// net.InterfaceAddrs lists them. Of an address with prefix length 0 only the address
// itself counts.
func Connected(addrs []net.Addr) Machine {
	var m Machine
	for _, addr := range addrs {
		ipnet, ok := addr.(*net.IPNet)
		if !ok {
			continue
		}
		ip, ok := netip.AddrFromSlice(ipnet.IP)
		if !ok {
			continue
		}
		ip = ip.Unmap()
		bits, size := ipnet.Mask.Size()
		if size == 128 && ip.Is4() {
			bits -= 96
		}
		if bits <= 0 {
			bits = ip.BitLen()
		}
		if p, err := ip.Prefix(bits); err == nil {
			m.subnets = append(m.subnets, p)
		}
	}
	return m
}

// Contains reports whether a is an address of the machine or of a subnet it is directly
// connected to.
func (m Machine) Contains(a netip.Addr) bool { return contains(m.subnets, a.Unmap()) }

func contains(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, s := range list {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}
