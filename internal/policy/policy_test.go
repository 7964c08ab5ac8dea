package policy

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
)

func sample() Network {
	return Network{
		Network: "aivm-net", Prefix: "aivm_sandbox", Bridge: "virbr-aivm",
		Subnet: netip.MustParsePrefix("10.77.0.0/24"), Gateway: netip.MustParseAddr("10.77.0.1"),
		Block:  prefixes("10.0.0.0/8", "192.168.0.0/16"),
		Guests: []Guest{{MAC: "52:54:00:00:00:02", IP: netip.MustParseAddr("10.77.0.11")}, {MAC: "52:54:00:00:00:01", IP: netip.MustParseAddr("10.77.0.10")}},
	}
}

// SECURITY.md must have one row for each claim, with the same text.
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
		t.Errorf("SECURITY.md has %d rows, Claims has %d", rows, len(Claims))
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

// Two networks never share a table, and all table names begin with "aivm".
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
}

func TestSame(t *testing.T) {
	a, b := sample(), sample()
	slices.Reverse(b.Guests)
	b.Block = append(b.Block, prefixes("10.9.0.0/16", "10.0.0.0/8")...)
	if !a.Same(b) {
		t.Error("policies differ by the order of guests, or by networks that others contain")
	}
	if a.Same(a.Without("52:54:00:00:00:01")) || !a.Same(a.Without("52:54:00:00:00:01").With("52:54:00:00:00:01", netip.MustParseAddr("10.77.0.10"))) {
		t.Error("policies are the same although a guest is missing")
	}
	b, ok := a.OnPort("52:54:00:00:00:01", "vnet7")
	if _, none := a.OnPort("52:54:00:00:00:09", "vnet7"); !ok || none || a.Same(b) || !a.Same(b.PortsOf(a)) || !b.Same(a.PortsOf(b)) {
		t.Error("policies are the same although a port differs, or PortsOf loses it")
	}
	if !b.Same(b.With("52:54:00:00:00:01", netip.MustParseAddr("10.77.0.10"))) {
		t.Error("With loses the port of an existing guest")
	}
}

func TestPortsAreJoined(t *testing.T) {
	n := Network{Ports: []Ports{{"udp", 53, 53}, {"tcp", 80, 90}, {"tcp", 85, 100}, {"tcp", 101, 101}, {"tcp", 65535, 65535}, {"tcp", 65530, 65535}}}
	got := n.OpenPorts()
	if want := []Ports{{"tcp", 80, 101}, {"tcp", 65530, 65535}, {"udp", 53, 53}}; !slices.Equal(got, want) {
		t.Errorf("%v", got)
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
