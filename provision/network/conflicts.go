package network

import (
	"fmt"
	"net/netip"
	"strings"

	"aivm.dev/aivm/internal/virt"
)

// Stolen says which route takes packets for the guests of a network that runs
// elsewhere: one as narrow as the network's own, or narrower, by another
// interface. A wider one (a VPN's 10.0.0.0/8) only hides its own hosts at these
// addresses, which hides says.
func (f Facts) Stolen(n *virt.Network) (stolen, hides string) {
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

// Through names the interface packets to an address leave by: that of the
// narrowest route that holds it.
func Through(routes []Route, a netip.Addr) string {
	best, bits := "nothing", -1
	for _, r := range routes {
		if r.Dst.Contains(a) && r.Dst.Bits() > bits {
			best, bits = r.Interface, r.Dst.Bits()
		}
	}
	return best
}
