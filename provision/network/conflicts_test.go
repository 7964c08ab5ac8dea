package network

import (
	"net/netip"
	"strings"
	"testing"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/virt"
)

func TestOverlappingRoutes(t *testing.T) {
	n := &virt.Network{Name: "n", Bridge: "virbr-n", Subnet: netip.MustParsePrefix("10.77.0.0/24")}
	for _, tt := range []struct{ dst, iface, stolen, hides string }{
		{"10.77.0.0/24", "virbr-n", "", ""},
		{"0.0.0.0/0", "tun0", "", ""},
		{"10.78.0.0/24", "tun0", "", ""},
		{"10.0.0.0/8", "tun0", "", "10.0.0.0/8 via tun0"},
		{"10.77.0.0/24", "tun0", "10.77.0.0/24 via tun0", ""},
		{"10.77.0.10/32", "wg0", "10.77.0.10/32 via wg0", ""},
	} {
		f := Facts{Routes: plan.Yes([]Route{{Interface: tt.iface, Dst: netip.MustParsePrefix(tt.dst)}})}
		st, hi := f.OverlappingRoutes(n)
		if !strings.Contains(st, tt.stolen) || !strings.Contains(hi, tt.hides) || (st == "") != (tt.stolen == "") || (hi == "") != (tt.hides == "") {
			t.Errorf("%s by %s: stolen %q, hides %q", tt.dst, tt.iface, st, hi)
		}
	}
}
