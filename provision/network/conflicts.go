package network

import (
	"fmt"
	"net/netip"
	"strings"

	"aivm.dev/aivm/internal/virt"
)

// OverlappingRoutes names the routes by other interfaces that overlap a network. stolen lists those
// as narrow as the network or narrower: they take the packets for its guests. hides lists the wider
// ones (a VPN's 10.0.0.0/8): only their own hosts at the network's addresses become unreachable.
func (f Facts) OverlappingRoutes(n *virt.Network) (stolen, hides string) {
	var st, hi []string
	for _, r := range f.Routes.Value {
		if r.Dst.Bits() == 0 || r.Interface == n.Bridge || !n.Subnet.IsValid() || !r.Dst.Overlaps(n.Subnet) {
			continue
		}
		what := fmt.Sprintf("route %s via %s", r.Dst, r.Interface)
		if r.Dst.Bits() >= n.Subnet.Bits() {
			st = append(st, what)
		} else {
			hi = append(hi, what)
		}
	}
	return strings.Join(st, ", "), strings.Join(hi, ", ")
}

// OutgoingInterface returns the interface by which packets to an address leave: that of the
// narrowest route that contains it.
func OutgoingInterface(routes []Route, a netip.Addr) string {
	best, bits := "nothing", -1
	for _, r := range routes {
		if r.Dst.Contains(a) && r.Dst.Bits() > bits {
			best, bits = r.Interface, r.Dst.Bits()
		}
	}
	return best
}
