package wall

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"aivm.dev/aivm/internal/policy"
)

// LocalNetworks returns the networks that are this machine's own business:
// those of its addresses, what its routes reach without a router, and what
// its VPNs and other routing tables lead to (reached). It asks the kernel; no
// privilege.
//
// The whole world behind a tunnel is not a subnet: networks as wide as a
// tunnel's halves of it (0.0.0.0/1) are left out.
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
	for _, p := range reached(rs, func(link int) bool { return tunnels[link] }) {
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

// widest are the shortest prefixes that count as a subnet.
const widest4, widest6 = 8, 17

// wide reports whether a network is so large that it stands for the internet.
func wide(p netip.Prefix) bool {
	return p.Addr().Is4() && p.Bits() < widest4 || p.Addr().Is6() && p.Bits() < widest6
}

func appendLocal(out []netip.Prefix, p netip.Prefix) []netip.Prefix {
	a := p.Addr()
	switch {
	case !policy.Usable(p), a.IsLoopback(), wide(p):
		return out
	// Always blocked, and one for every card that comes and goes.
	case a.IsLinkLocalUnicast(), a.IsMulticast():
		return out
	}
	return append(out, p)
}
