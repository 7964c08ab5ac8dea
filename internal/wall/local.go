package wall

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"aivm.dev/aivm/internal/policy"
)

// LocalNetworks returns the networks the host is connected to: those of its addresses,
// those it reaches without a router, and those behind its VPNs and additional routing
// tables (localRoutes). It asks the kernel and needs no privileges.
//
// Routes that stand for the internet, such as the two halves (0.0.0.0/1) that a VPN uses
// in place of a default route, are left out.
func LocalNetworks() ([]netip.Prefix, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("reading this machine's addresses: %w", err)
	}
	var out []netip.Prefix
	for _, a := range addrs {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		ip, ok := netip.AddrFromSlice(n.IP)
		ones, _ := n.Mask.Size()
		if ip = ip.Unmap(); ok && (!ip.Is4() || ones <= 32) {
			out = appendLocal(out, netip.PrefixFrom(ip, ones).Masked())
		}
	}
	links, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("reading this machine's interfaces: %w", err)
	}
	tunnels := map[int]bool{}
	for _, l := range links {
		tunnels[l.Index] = l.Flags&net.FlagPointToPoint != 0
	}
	rs, err := Routes()
	if err != nil {
		return nil, err
	}
	for _, p := range localRoutes(rs, func(link int) bool { return tunnels[link] }) {
		out = appendLocal(out, p)
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	return slices.Compact(out), nil
}

// widest4 and widest6 are the shortest prefixes taken for a subnet.
const widest4, widest6 = 8, 17

// wide reports whether a network is so large that it means the internet.
func wide(p netip.Prefix) bool {
	return p.Addr().Is4() && p.Bits() < widest4 || p.Addr().Is6() && p.Bits() < widest6
}

// appendLocal appends p unless it is unusable, loopback, wide, link-local or multicast.
func appendLocal(out []netip.Prefix, p netip.Prefix) []netip.Prefix {
	a := p.Addr()
	switch {
	case !policy.Usable(p), a.IsLoopback(), wide(p):
		return out
	// These are always blocked, and every interface has one, so that the list would
	// change with each interface.
	case a.IsLinkLocalUnicast(), a.IsMulticast():
		return out
	}
	return append(out, p)
}
