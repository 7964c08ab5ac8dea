package wall

import (
	"bytes"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
)

func sample() Wall {
	return Wall{
		Network: "aivm-net", Prefix: "aivm_sandbox", Bridge: "virbr-aivm",
		Subnet: netip.MustParsePrefix("10.77.0.0/24"), Gateway: netip.MustParseAddr("10.77.0.1"),
		Block:  prefixes("10.0.0.0/8", "192.168.0.0/16"),
		Guests: []Guest{{MAC: "52:54:00:00:00:02", IP: netip.MustParseAddr("10.77.0.11")}, {MAC: "52:54:00:00:00:01", IP: netip.MustParseAddr("10.77.0.10")}},
	}
}

// The document says what the table says.
func TestSecurityHasEveryClaim(t *testing.T) {
	b, err := os.ReadFile("../../SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for _, c := range Claims {
		state := map[bool]string{true: "open", false: "closed"}[c.Open]
		if !strings.Contains(string(b), "| "+state+" | "+c.Says+" |") {
			t.Errorf("SECURITY.md lacks the line of %s: | %s | %s |", c.ID, state, c.Says)
		}
	}
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "| open |") || strings.HasPrefix(line, "| closed |") {
			rows++
		}
	}
	if rows != len(Claims) {
		t.Errorf("SECURITY.md has %d lines, the table %d", rows, len(Claims))
	}
}

func TestSentence(t *testing.T) {
	w := sample()
	want := "reaches the internet and DHCP, DNS and echo of its gateway 10.77.0.1; it does not reach other services of this machine, private networks, the networks this machine is connected to, cloud metadata or other VMs"
	if got := Sentence(w); got != want {
		t.Errorf("%s", got)
	}
	w.Ports = []Ports{{"tcp", 80, 90}}
	e, err := ParseEndpoint("10.1.2.3:53/udp")
	if err != nil {
		t.Fatal(err)
	}
	w.LAN = []Endpoint{e}
	if got := Sentence(w); !strings.Contains(got, "the ports tcp 80-90 of this machine and 10.1.2.3:53/udp; it") {
		t.Errorf("%s", got)
	}
}

// Two networks never share a table, and no table is anybody else's.
func TestTables(t *testing.T) {
	a, b := sample(), sample()
	b.Network = "aivm_net"
	if a.Table() == b.Table() {
		t.Errorf("two networks have the table %s", a.Table())
	}
	a.Prefix = "filter"
	if !strings.HasPrefix(a.Table(), "aivm_filter_") {
		t.Errorf("%s", a.Table())
	}
	for line := range strings.Lines(Script(a, nil)) {
		if f := strings.Fields(line); len(f) > 2 && (f[0] == "table" || f[0] == "delete") && !strings.Contains(line, a.Table()) {
			t.Errorf("another table is named: %s", line)
		}
	}
}

func TestSame(t *testing.T) {
	a, b := sample(), sample()
	slices.Reverse(b.Guests)
	b.Block = append(b.Block, prefixes("10.9.0.0/16", "10.0.0.0/8")...)
	if !a.Same(b) {
		t.Error("the order of guests, or what is covered already, counts")
	}
	if a.Same(a.Without("52:54:00:00:00:01")) || !a.Same(a.Without("52:54:00:00:00:01").With("52:54:00:00:00:01", netip.MustParseAddr("10.77.0.10"))) {
		t.Error("a guest does not count")
	}
	b, ok := a.OnPort("52:54:00:00:00:01", "vnet7")
	if _, none := a.OnPort("52:54:00:00:00:09", "vnet7"); !ok || none || a.Same(b) || !a.Same(b.PortsOf(a)) || !b.Same(a.PortsOf(b)) {
		t.Error("a port does not count, or is lost")
	}
	if !b.Same(b.With("52:54:00:00:00:01", netip.MustParseAddr("10.77.0.10"))) {
		t.Error("a guest that is named again loses its port")
	}
}

func TestPortsAreJoined(t *testing.T) {
	got := ports([]Ports{{"udp", 53, 53}, {"tcp", 80, 90}, {"tcp", 85, 100}, {"tcp", 101, 101}, {"tcp", 65535, 65535}, {"tcp", 65530, 65535}})
	if want := []string{"tcp . 80-101", "tcp . 65530-65535", "udp . 53"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestParseEndpoint(t *testing.T) {
	for in, want := range map[string]string{
		"10.1.2.3:5432": "10.1.2.3:5432", "10.1.2.9/24:80-90/udp": "10.1.2.0/24:80-90/udp", "[fd00::5]:443": "[fd00::5]:443",
		"[fd00::/64]:443/tcp": "[fd00::/64]:443", "10.1.2.3": "", ":80": "", "10.1.2.3:": "", "10.1.2.3:0": "", "fd00::5:443": "",
		"[10.1.2.3]:80": "", "10.1.2.3:80/sctp": "", "host:80": "", "10.1.2.3:90-80": "", "[fe80::1%eth0]:80": "", "10.1.2.3:80;drop": "",
	} {
		e, err := ParseEndpoint(in)
		if (err == nil) != (want != "") || err == nil && e.String() != want {
			t.Errorf("%q: %q %v, want %q", in, e, err, want)
		}
	}
}

// Networks behind a gateway, tunnels for everything, and single addresses are
// not what this machine is directly connected to.
func TestRoutes(t *testing.T) {
	four, err := routes4(bytes.NewReader([]byte(`Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth0	00000000	010200C0	0003	0	0	0	00000000	0	0	0
eth0	000200C0	00000000	0001	0	0	0	00FFFFFF	0	0	0
wg0	00000000	00000000	0001	0	0	0	00000080	0	0	0
eth0	0000000A	010200C0	0003	0	0	0	000000FF	0	0	0
`)))
	if err != nil {
		t.Fatal(err)
	}
	var got []netip.Prefix
	for _, r := range four {
		got = appendLocal(got, r)
	}
	if !slices.Equal(got, prefixes("192.0.2.0/24")) {
		t.Errorf("%v", got)
	}
	six, err := routes6(bytes.NewReader([]byte(`20010db8000100000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fd000000000000000000000000000001 00000400 00000001 00000000 00000003     eth0
20000000000000000000000000000000 03 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001      wg0
fe800000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0
`)))
	if err != nil {
		t.Fatal(err)
	}
	got = nil
	for _, r := range six {
		got = appendLocal(got, r)
	}
	if !slices.Equal(got, prefixes("2001:db8:1::/64")) {
		t.Errorf("%v", got)
	}
	for _, bad := range []string{"h\neth0 XX 0 0001 0 0 0 00FFFFFF 0 0 0\n", "h\neth0 0002 0 0001 0 0 0 00FFFFFF 0 0 0\n"} {
		if _, err := routes4(strings.NewReader(bad)); err == nil {
			t.Errorf("%q is understood", bad)
		}
	}
	if _, err := LocalNetworks(); err != nil {
		t.Error(err)
	}
}
