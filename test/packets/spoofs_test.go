package packets

import (
	"fmt"
	"strings"
)

// unknownMAC is a MAC address that no machine has.
const unknownMAC = "52:54:00:99:99:99"

// spoofs returns probes with a forged source address, and with forged ARP or IPv6 messages.
func spoofs() []probe {
	var out []probe
	add := func(name string, send func(*world, int) error) {
		out = append(out, probe{claim: "spoofing", name: name, send: send})
	}
	packet := func(card, from, to string, port uint16) func(string) []byte {
		return func(m string) []byte {
			return ethernet(cardBr, card, kindIP4, ip4(from, to, 17, 0, false, udp(4000, port, m)))
		}
	}
	add("a neighbour's address", frame(one, internet, packet(card1, "10.77.0.11", "1.1.1.1", 9000)))
	add("a free address of the subnet", frame(one, internet, packet(card1, "10.77.0.77", "1.1.1.1", 9000)))
	add("an address of the LAN", frame(one, internet, packet(card1, "198.18.5.9", "1.1.1.1", 9000)))
	add("an address of the internet", frame(one, internet, packet(card1, "8.8.4.4", "1.1.1.1", 9000)))
	add("a guest's address of the other network", frame(one, internet, packet(card1, "10.78.0.10", "1.1.1.1", 9000)))
	add("an unknown MAC address, its own IP address", frame(one, internet, packet(unknownMAC, "10.77.0.10", "1.1.1.1", 9000)))
	add("an unknown MAC and IP address", frame(one, internet, packet(unknownMAC, "9.9.9.9", "1.1.1.1", 9000)))
	add("an unknown MAC address, to an allowed port", frame(one, host, packet(unknownMAC, "9.9.9.9", "10.77.0.1", 5000)))
	add("a neighbour's MAC address, its own IP address", frame(one, internet, packet(card2, "10.77.0.10", "1.1.1.1", 9000)))
	add("a neighbour's MAC and IP address", frame(one, internet, packet(card2, "10.77.0.11", "1.1.1.1", 9000)))
	add("a neighbour's MAC and IP address, to an allowed port", frame(one, host, packet(card2, "10.77.0.11", "10.77.0.1", 5000)))
	add("no address, not DHCP", frame(one, host, packet(card1, "0.0.0.0", "255.255.255.255", 5001)))
	// Protocols without a listener are captured on the bridge itself.
	raw := func(name string, kind uint16, head ...byte) {
		add(name, func(w *world, ms int) error {
			m := "seen-" + newMark()
			w.one.must(request{Op: "frame", Dev: "eth0", Data: text(ethernet(cardBr, card1, kind, append(append(head, m...), make([]byte, 46)...)))})
			if a := w.host.ask(request{Op: "got", Data: m, MS: ms}); !a.OK {
				return fmt.Errorf("%s", a.Err)
			}
			return nil
		})
	}
	raw("in a VLAN", kindVLAN, 0, 5, kindIP4>>8, kindIP4&0xff)
	raw("in an experimental protocol", 0x88b5)
	neigh := func(a string) string { return "ip neigh show " + a + " dev brn" }
	addPrimed := func(name string, send func(*world, int) error) {
		out = append(out, probe{claim: "spoofing", name: name, send: send, prime: true})
	}
	addPrimed("an ARP reply for a neighbour", learns(func() []byte {
		return ethernet(cardBr, card1, kindARP, arp(card1, "10.77.0.11", "10.77.0.1"))
	}, neigh("10.77.0.11"), card1))
	addPrimed("an ARP reply for a neighbour with an unknown MAC address", learns(func() []byte {
		return ethernet(cardBr, card1, kindARP, arp(unknownMAC, "10.77.0.11", "10.77.0.1"))
	}, neigh("10.77.0.11"), unknownMAC))
	addPrimed("an ARP reply from an unknown MAC address", learns(func() []byte {
		return ethernet(cardBr, unknownMAC, kindARP, arp(unknownMAC, "10.77.0.11", "10.77.0.1"))
	}, neigh("10.77.0.11"), unknownMAC))
	addPrimed("an ARP reply for its own address with an unknown MAC address", learns(func() []byte {
		return ethernet(cardBr, card1, kindARP, arp(unknownMAC, "10.77.0.10", "10.77.0.1"))
	}, neigh("10.77.0.10"), unknownMAC))
	addPrimed("an exact copy of a neighbour's ARP reply", learns(func() []byte {
		return ethernet(cardBr, card2, kindARP, arp(card2, "10.77.0.11", "10.77.0.1"))
	}, "bridge fdb show br brn | grep 'dev p1' || true", card2))
	addPrimed("an ARP reply for the gateway, to a neighbour", func(w *world, ms int) error {
		out := ""
		for range 3 {
			w.one.must(request{Op: "frame", Dev: "eth0", Data: text(ethernet(card2, card1, kindARP, arp(card1, "10.77.0.1", "10.77.0.11")))})
			w.one.ask(request{Op: "got", Data: "nothing", MS: ms / 6})
			if out = w.two.run("ip neigh show 10.77.0.1 dev eth0"); strings.Contains(out, card1) {
				return nil
			}
		}
		return fmt.Errorf("%q", out)
	})
	addPrimed("a neighbour advertisement for a neighbour", learns(func() []byte {
		return ethernet(cardBr, card1, kindIP6, ip6("fd77::10", "fd77::1", 58, 2, advertisement("fd77::11", card1)))
	}, "ip -6 neigh show fd77::11 dev brn", card1))
	addPrimed("a router advertisement", learns(func() []byte {
		return ethernet("33:33:00:00:00:01", card1, kindIP6, ip6("fe80::5054:ff:fe00:1", "ff02::1", 58, 2, router("2001:db8:666::")))
	}, "ip -6 addr show dev brn", "2001:db8:666:"))
	return out
}

// resetNeighbours sets correct neighbour entries for the guests, as normal traffic does, and waits
// until a new message can replace them (the kernel keeps an entry for at least a second).
func resetNeighbours(w *world) {
	// The neighbour sends a frame, so that the bridge learns its port again.
	w.two.must(request{Op: "frame", Dev: "eth0", Data: text(ethernet(cardBr, card2, kindARP, arp(card2, "10.77.0.11", "10.77.0.1")))})
	w.two.run("ip neigh replace 10.77.0.1 lladdr " + cardBr + " dev eth0 nud stale")
	w.host.run(`ip neigh replace 10.77.0.10 lladdr ` + card1 + ` dev brn nud stale; ip neigh replace 10.77.0.11 lladdr ` + card2 + ` dev brn nud stale
		ip -6 neigh replace fd77::11 lladdr ` + card2 + ` dev brn nud stale; ip -6 addr flush dev brn dynamic
		sleep 1.1`)
}

// ipv6Probes returns probes for the IPv6 rules, which are prepared for networks with IPv6.
func ipv6Probes() []probe {
	var out []probe
	add := func(claim string, open bool, op, proto, addr string) {
		out = append(out, probe{claim: claim, open: open, ipv6: true, name: op + " " + proto + " " + addr, send: on(one, request{Op: op, Proto: proto, Addr: addr})})
	}
	add("internet", true, "dial", "tcp6", "[2606:4700::1]:443")
	add("internet", true, "dial", "tcp6", "[2001:db8:77::5]:80")
	add("internet", true, "echo", "", "2606:4700::1")
	add("lan", true, "dial", "tcp6", "[fd12::5]:443")
	add("ports", true, "dial", "tcp6", "[fd77::1]:8000")
	for _, a := range []string{"fd12::5", "fec0::5", "64:ff9b::a01:203", "2002:a01:203::1"} {
		add("private", false, "dial", "tcp6", "["+a+"]:80")
	}
	add("private", false, "dial", "udp6", "[fd12::5]:53")
	add("private", false, "echo", "", "fd12::5")
	add("metadata", false, "dial", "tcp6", "[fd00:ec2::254]:80")
	add("connected", false, "dial", "tcp6", "[2001:db8:5::9]:80")
	add("connected", false, "echo", "", "2001:db8:5::9")
	add("connected", false, "dial", "tcp6", "[2001:db8:99::9]:80")
	add("connected", false, "dial", "tcp6", "[2001:db8:113::1]:80")
	add("host", false, "dial", "tcp6", "[fd77::1]:22")
	add("host", false, "dial", "udp6", "[fd77::1]:53")
	add("host", false, "dial", "tcp6", "[2001:db8:113::2]:22")
	add("host", false, "dial", "tcp6", "[2001:db8:5::1]:22")
	add("host", false, "echo", "", "2001:db8:113::2")
	return out
}
