package wall

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func prefixes(ss ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range ss {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func sample() Wall {
	return Wall{
		Network: "aivm-net", Prefix: "aivm_sandbox", Bridge: "virbr-aivm",
		Subnet: netip.MustParsePrefix("10.77.0.0/24"), Gateway: netip.MustParseAddr("10.77.0.1"),
		Block:  prefixes("10.0.0.0/8", "192.168.0.0/16"),
		Guests: []Guest{{MAC: "52:54:00:00:00:02", IP: netip.MustParseAddr("10.77.0.11")}, {MAC: "52:54:00:00:00:01", IP: netip.MustParseAddr("10.77.0.10")}},
	}
}

// A script touches no table of other programs.
func TestOnlyOwnTables(t *testing.T) {
	a := sample()
	a.Prefix = "filter"
	for line := range strings.Lines(Script(a, nil)) {
		if f := strings.Fields(line); len(f) > 2 && (f[0] == "table" || f[0] == "delete") && !strings.Contains(line, a.Table()) {
			t.Errorf("another table is named: %s", line)
		}
	}
}

// Two policies are the same if, and only if, their rules are.
func TestSameIsTheSameScript(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	nets := append(prefixes("10.0.0.0/8", "10.9.0.0/16", "192.168.0.0/16", "169.254.169.254/32", "fd00::/8", "fd00:1::/32", "8.8.8.0/24", "10.77.0.0/25"), sample().Subnet)
	pick := func() netip.Prefix { return nets[rnd.IntN(len(nets))] }
	random := func() Wall {
		w := sample()
		w.Block, w.Guests = nil, nil
		for range rnd.IntN(4) {
			w.Block = append(w.Block, pick())
		}
		for range rnd.IntN(3) {
			from := uint16(80 + rnd.IntN(3))
			w.Ports = append(w.Ports, Ports{Proto: []string{"tcp", "udp"}[rnd.IntN(2)], First: from, Last: from + uint16(rnd.IntN(2))})
		}
		for range rnd.IntN(3) {
			w.LAN = append(w.LAN, Endpoint{Net: pick(), Ports: Ports{Proto: "tcp", First: 1, Last: 1 + uint16(rnd.IntN(2))}})
		}
		for range rnd.IntN(3) {
			w.Guests = append(w.Guests, Guest{
				MAC: fmt.Sprintf("52:54:00:00:00:%02d", rnd.IntN(2)), IP: netip.AddrFrom4([4]byte{10, 77, 0, byte(10 + rnd.IntN(2))}),
				Port: []string{"", "vnet1"}[rnd.IntN(2)],
			})
		}
		if rnd.IntN(8) == 0 {
			w.Gateway = w.Gateway.Next()
		}
		if rnd.IntN(8) == 0 {
			w.Bridge += "x"
		}
		return w
	}
	walls := make([]Wall, 120)
	scripts := make([]string, len(walls))
	for i := range walls {
		if walls[i] = random(); i%2 == 1 { // the previous one with its lists reordered and repeated
			w := walls[i-1]
			w.Block, w.Guests, w.LAN = slices.Concat(w.Block, w.Block), slices.Concat(w.Guests, w.Guests), slices.Concat(w.LAN, w.LAN)
			slices.Reverse(w.Block)
			slices.Reverse(w.Guests)
			slices.Reverse(w.LAN)
			walls[i] = w
		}
		scripts[i] = Script(walls[i], nil)
	}
	same := 0
	for i := range walls {
		for j := range i {
			if got, want := walls[i].Same(walls[j]), scripts[i] == scripts[j]; got != want {
				t.Fatalf("Same is %v, the scripts being the same is %v:\n%+v\n%+v", got, want, walls[i], walls[j])
			} else if got {
				same++
			}
		}
	}
	if same < 50 {
		t.Errorf("only %d of the pairs are the same", same)
	}
}

// localRoutes leaves out routes to routers in the main table, the internet through any
// table or tunnel and in any pieces, and single addresses. It returns networks behind
// VPNs.
func TestLocalRoutes(t *testing.T) {
	const lan, tun, vpn = 2, 7, 51820
	route := func(dst string, table uint32, link int, gateway bool) Route {
		return Route{netip.MustParsePrefix(dst), table, link, gateway}
	}
	rs := []Route{
		route("0.0.0.0/0", MainTable, lan, true), route("192.0.2.0/24", MainTable, lan, false), route("172.16.0.0/12", MainTable, lan, false),
		route("10.0.0.0/8", MainTable, lan, true), route("198.51.100.0/24", MainTable, lan, true),
		// OpenVPN: the internet, and a pushed network.
		route("0.0.0.0/1", MainTable, tun, true), route("128.0.0.0/1", MainTable, tun, true), route("198.51.7.0/24", MainTable, tun, true),
		// WireGuard: the internet except excluded networks, and a private network.
		route("8.0.0.0/7", vpn, tun, false), route("11.0.0.0/8", vpn, tun, false), route("172.64.0.0/10", vpn, tun, false), route("203.0.113.0/24", vpn, tun, false),
		// strongSwan's table.
		route("198.18.0.0/15", 220, lan, true), route("0.0.0.0/0", 221, lan, true),
		route("2001:db8:1::/64", MainTable, lan, false), route("::/0", MainTable, lan, true), route("2000::/3", vpn, tun, false),
		route("2400::/20", vpn, tun, false), route("2001:db8:7::/48", vpn, tun, false), route("2001:db8:9::1/128", MainTable, lan, false), route("fe80::/64", MainTable, lan, false),
	}
	for i := range 600 { // a country's networks, through another provider
		rs = append(rs, route(fmt.Sprintf("5.%d.%d.0/24", i/256, i%256), 300, lan, true))
	}
	got := localRoutes(rs, func(link int) bool { return link == tun })
	if want := prefixes("192.0.2.0/24", "172.16.0.0/12", "198.51.7.0/24", "203.0.113.0/24", "198.18.0.0/15", "2001:db8:1::/64", "2001:db8:7::/48"); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if _, err := LocalNetworks(); err != nil {
		t.Error(err)
	}
}

// FuzzRoutesRead checks that parseRoutes returns only valid routes for any input.
func FuzzRoutesRead(f *testing.F) {
	for _, family := range []int{syscall.AF_INET, syscall.AF_INET6} {
		b, err := syscall.NetlinkRIB(syscall.RTM_GETROUTE, family)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, byte(family))
	}
	f.Fuzz(func(t *testing.T, b []byte, family byte) {
		rs, _, _ := parseRoutes(b, family)
		for _, r := range rs {
			if !r.Dst.IsValid() || r.Dst != r.Dst.Masked() {
				t.Errorf("%+v", r)
			}
		}
		nextHops(b)
	})
}
