package packets

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/wall"
	"aivm.dev/aivm/provision/firewall"
)

// MAC addresses of the guests and of the bridge.
const (
	card1, card2, card3 = "52:54:00:00:00:01", "52:54:00:00:00:02", "52:54:00:00:00:03"
	cardBr              = "52:54:00:00:00:fe"
)

// world is the host and the networks around it.
//
//	one, two: guests of network "n" (10.77.0.0/24, bridge brn)
//	three:    a guest of network "m" (10.78.0.0/24, bridge brm)
//	lan:      a neighbour on a public subnet that the host is connected to
//	net:      the host's router, which has all other public and private addresses
type world struct {
	host, one, two, three, lan, net *namespace
	wall, other                     wall.Wall
}

// far and far6 are the addresses of the router.
var far = []string{
	"1.1.1.1", "8.8.8.8", "198.51.100.7", "10.1.2.3", "172.16.5.5", "192.168.9.9", "100.64.0.9", "169.254.169.254", "169.254.7.7",
	"100.100.100.200", "192.0.0.192", "168.63.129.16", "198.18.99.9", "198.19.7.7",
}

var far6 = []string{
	"2606:4700::1", "2001:db8:77::5", "fd12::5", "fd00:ec2::254", "fec0::5", "64:ff9b::a01:203", "2002:a01:203::1",
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{}
	for name, p := range map[string]**namespace{"host": &w.host, "one": &w.one, "two": &w.two, "three": &w.three, "lan": &w.lan, "net": &w.net} {
		*p = newNamespace(t, name)
	}
	w.host.run(`ip link add name brn address ` + cardBr + ` type bridge; ip link add name brm type bridge
		ip addr add 10.77.0.1/24 dev brn; ip addr add fd77::1/64 dev brn; ip addr add 10.78.0.1/24 dev brm
		ip link set brn up; ip link set brm up
		sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.send_redirects=0 net.ipv4.icmp_echo_ignore_broadcasts=0 net.ipv6.conf.brn.accept_ra=2`)
	for _, g := range []struct {
		p                 *namespace
		port, brn, card   string
		addr, addr6, gate string
	}{
		{w.one, "p1", "brn", card1, "10.77.0.10", "fd77::10", "10.77.0.1"},
		{w.two, "p2", "brn", card2, "10.77.0.11", "fd77::11", "10.77.0.1"},
		{w.three, "p3", "brm", card3, "10.78.0.10", "", "10.78.0.1"},
	} {
		cable(w.host, g.port, g.p, "eth0")
		w.host.run("ip link set " + g.port + " master " + g.brn)
		g.p.run(fmt.Sprintf("ip link set eth0 address %s; ip addr add %s/24 dev eth0; ip route add default via %s", g.card, g.addr, g.gate))
		if g.addr6 != "" {
			g.p.run(fmt.Sprintf("ip addr add %s/64 dev eth0 nodad; ip -6 route add default via fd77::1", g.addr6))
		}
	}
	// The rules drop all IPv6, so neighbour discovery does not work: both sides get fixed entries.
	w.host.run("ip neigh add fd77::10 lladdr " + card1 + " dev brn nud permanent")
	w.one.run("ip neigh add fd77::1 lladdr " + cardBr + " dev eth0 nud permanent")
	cable(w.host, "wan", w.net, "eth0")
	w.host.run("ip addr add 203.0.113.2/24 dev wan; ip addr add 2001:db8:113::2/64 dev wan nodad; ip route add default via 203.0.113.1; ip -6 route add default via 2001:db8:113::1")
	w.net.run(`ip addr add 203.0.113.1/24 dev eth0; ip addr add 2001:db8:113::1/64 dev eth0 nodad
		ip route add 10.77.0.0/16 via 203.0.113.2; ip route add 10.78.0.0/16 via 203.0.113.2; ip -6 route add fd77::/64 via 2001:db8:113::2`)
	for _, a := range far {
		w.net.run("ip addr add " + a + "/32 dev lo")
	}
	for _, a := range far6 {
		w.net.run("ip addr add " + a + "/128 dev lo nodad")
	}
	w.vpn()
	cable(w.host, "elan", w.lan, "eth0")
	w.host.run("ip addr add 198.18.5.1/24 dev elan; ip addr add 2001:db8:5::1/64 dev elan nodad")
	w.lan.run("ip addr add 198.18.5.9/24 dev eth0; ip addr add 2001:db8:5::9/64 dev eth0 nodad; ip route add default via 198.18.5.1; ip -6 route add default via 2001:db8:5::1")
	w.walls(t)
	w.services()
	return w
}

// vpn adds a tunnel to public networks with ip rules and a routing table, as wg-quick does, beside
// one that routes the complete internet.
func (w *world) vpn() {
	cable(w.host, "tun0", w.net, "eth1")
	w.net.run("ip addr add 2001:db8:99::9/128 dev eth1 nodad")
	w.host.run(`ip route add 198.19.7.0/24 dev tun0 table 51820; ip -6 route add 2001:db8:99::/48 dev tun0 table 51820
		ip route add 0.0.0.0/1 via 203.0.113.1 table 51821; ip route add 128.0.0.0/1 via 203.0.113.1 table 51821; ip -6 route add 2000::/3 via 2001:db8:113::1 table 51821
		ip rule add pref 100 lookup main suppress_prefixlength 0; ip rule add pref 101 lookup 51820; ip rule add pref 102 lookup 51821
		ip -6 rule add pref 100 lookup main suppress_prefixlength 0; ip -6 rule add pref 101 lookup 51820; ip -6 rule add pref 102 lookup 51821`)
}

// walls sets w.wall and w.other to the firewalls of the default config, w.wall with some ports and
// endpoints open.
func (w *world) walls(t testing.TB) {
	t.Helper()
	wallOf := func(name, bridge, octet string, fw config.Firewall, gs ...wall.Guest) wall.Wall {
		got, err := firewall.Want(fw, config.NetworkSpec{Name: name, Bridge: bridge, SubnetCIDR: "10." + octet + ".0.0/24", GatewayIP: "10." + octet + ".0.1"}, gs)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	fw := config.DefaultConfig().Defaults.Firewall
	w.other = wallOf("m", "brm", "78", fw, wall.Guest{MAC: card3, IP: netip.MustParseAddr("10.78.0.10")})
	fw.AllowTCPPorts, fw.AllowUDPPorts = []string{"8000-8002"}, []string{"5000"}
	fw.AllowLAN = []string{"10.1.2.3:5432", "10.1.2.0/24:7000-7010/udp", "[fd12::5]:443"}
	w.wall = wallOf("n", "brn", "77", fw, wall.Guest{MAC: card1, IP: netip.MustParseAddr("10.77.0.10"), Port: "p1"}, wall.Guest{MAC: card2, IP: netip.MustParseAddr("10.77.0.11"), Port: "p2"})
}

// services starts servers in all namespaces on the ports that the probes use.
func (w *world) services() {
	listen := func(p *namespace, proto string, ports ...string) {
		for _, port := range ports {
			p.must(request{Op: "listen", Proto: proto, Addr: ":" + port})
		}
	}
	listen(w.host, "tcp", "22", "53", "80", "8000", "8001", "8003", "2049")
	listen(w.host, "udp", "53", "67", "123", "5000", "5001", "5353")
	w.host.must(request{Op: "capture", Dev: "brn"})
	listen(w.net, "tcp", "22", "80", "443", "5432", "5433")
	listen(w.net, "udp", "53", "7000", "7011", "9000")
	for _, p := range []*namespace{w.one, w.two, w.three, w.lan} {
		listen(p, "tcp", "22", "80")
		listen(p, "udp", "9000")
	}
}

// loadRules loads the firewall rules as the helper does, and isolates the bridge ports as libvirt
// does.
func (w *world) loadRules() {
	local := w.host.must(request{Op: "local"}).Local
	w.host.load(wall.Script(w.wall, local))
	w.host.load(wall.Script(w.other, local))
	w.isolate(true)
}

// flushRules removes all rules, aivm's and others, and the isolation of the ports.
func (w *world) flushRules() {
	w.host.run("nft flush ruleset")
	w.isolate(false)
}

func (w *world) isolate(on bool) {
	state := map[bool]string{true: "on", false: "off"}[on]
	var b strings.Builder
	for _, p := range []string{"p1", "p2", "p3"} {
		fmt.Fprintf(&b, "bridge link set dev %s isolated %s\n", p, state)
	}
	w.host.run(b.String())
}

// flushLearned removes addresses, routes and table entries that the host and the guests learned from
// earlier probes.
func (w *world) flushLearned() {
	w.host.run("ip -6 route flush proto ra; ip -6 addr flush dev brn dynamic; ip neigh flush all >/dev/null 2>&1 || true; for p in p1 p2 p3; do bridge fdb flush dev $p 2>/dev/null || true; done")
	for _, p := range []*namespace{w.one, w.two, w.three} {
		p.run("ip neigh flush all >/dev/null 2>&1 || true")
	}
}
