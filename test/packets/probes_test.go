package packets

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
)

// A probe is one packet, or one exchange of packets, and whether the firewall allows it.
type probe struct {
	claim string // an id in wall.Claims
	name  string
	open  bool
	send  func(w *world, ms int) error
	// ipv6 marks an IPv6 probe. The bridge rules drop all IPv6 of a guest, so these probes test the
	// IP rules only when the bridge rules are removed.
	ipv6 bool
	// prime means: call resetNeighbours before.
	prime bool
}

// marks counts the marks that make each datagram unique.
var marks atomic.Int64

func newMark() string { return fmt.Sprintf("mark-%06d", marks.Add(1)) }

// on returns the send function of a probe that performs the request in a namespace.
func on(from func(*world) *namespace, r request) func(*world, int) error {
	return func(w *world, ms int) error {
		r.MS = ms
		if a := from(w).ask(r); !a.OK {
			return fmt.Errorf("%s", a.Err)
		}
		return nil
	}
}

func one(w *world) *namespace      { return w.one }
func host(w *world) *namespace     { return w.host }
func lan(w *world) *namespace      { return w.lan }
func internet(w *world) *namespace { return w.net }
func three(w *world) *namespace    { return w.three }

// frame returns the send function of a probe that sends a raw frame from a guest and waits until its
// mark arrives in another namespace.
func frame(from, to func(*world) *namespace, build func(m string) []byte) func(*world, int) error {
	return func(w *world, ms int) error {
		m := newMark()
		if a := from(w).ask(request{Op: "frame", Dev: "eth0", Data: text(build(m))}); !a.OK {
			return fmt.Errorf("%s", a.Err)
		}
		if a := to(w).ask(request{Op: "got", Data: m, MS: ms}); !a.OK {
			return fmt.Errorf("%s", a.Err)
		}
		return nil
	}
}

// learns returns the send function of a probe that sends a forged frame and checks whether the host
// accepted it: whether the output of the command ask contains sign.
func learns(build func() []byte, ask, sign string) func(*world, int) error {
	return func(w *world, ms int) error {
		// Up to three tries: a frame of the imitated machine may arrive in between and correct the
		// entry.
		out := ""
		for range 3 {
			w.one.must(request{Op: "frame", Dev: "eth0", Data: text(build())})
			w.one.ask(request{Op: "got", Data: "nothing", MS: ms / 6}) // waits for ms/6
			if out = w.host.run(ask); strings.Contains(out, sign) {
				return nil
			}
		}
		return fmt.Errorf("%q in %q", sign, out)
	}
}

func probes() []probe {
	var out []probe
	add := func(claim string, open bool, name string, send func(*world, int) error) {
		out = append(out, probe{claim: claim, name: name, open: open, send: send})
	}
	dial := func(claim string, open bool, proto string, addrs ...string) {
		for _, a := range addrs {
			add(claim, open, proto+" "+a, on(one, request{Op: "dial", Proto: proto, Addr: a}))
		}
	}
	ping := func(claim string, open bool, addrs ...string) {
		for _, a := range addrs {
			add(claim, open, "echo "+a, on(one, request{Op: "echo", Addr: a}))
		}
	}
	dial("internet", true, "tcp", "1.1.1.1:443", "8.8.8.8:80", "198.51.100.7:80")
	dial("internet", true, "udp", "8.8.8.8:53", "1.1.1.1:9000")
	ping("internet", true, "1.1.1.1")
	dial("gateway", true, "udp", "10.77.0.1:53")
	dial("gateway", true, "tcp", "10.77.0.1:53")
	ping("gateway", true, "10.77.0.1")
	add("gateway", true, "a DHCP request from a guest without an address", frame(one, host, func(m string) []byte {
		return ethernet("ff:ff:ff:ff:ff:ff", card1, kindIP4, ip4("0.0.0.0", "255.255.255.255", 17, 0, false, udp(68, 67, m)))
	}))
	add("gateway", true, "a DHCP renewal", frame(one, host, func(m string) []byte {
		return ethernet(cardBr, card1, kindIP4, ip4("10.77.0.10", "10.77.0.1", 17, 0, false, udp(68, 67, m)))
	}))
	dial("ports", true, "tcp", "10.77.0.1:8000", "10.77.0.1:8001", "203.0.113.2:8001")
	dial("ports", true, "udp", "10.77.0.1:5000")
	dial("lan", true, "tcp", "10.1.2.3:5432")
	dial("lan", true, "udp", "10.1.2.3:7000")
	add("answers", true, "ssh from this machine", on(host, request{Op: "dial", Proto: "tcp", Addr: "10.77.0.10:22"}))
	add("answers", true, "echo from this machine", on(host, request{Op: "echo", Addr: "10.77.0.10"}))
	add("answers", true, "udp from this machine", on(host, request{Op: "dial", Proto: "udp", Addr: "10.77.0.10:9000"}))

	dial("host", false, "tcp", "10.77.0.1:22", "10.77.0.1:80", "10.77.0.1:2049", "10.77.0.1:8003", "203.0.113.2:22", "203.0.113.2:53", "198.18.5.1:22", "10.78.0.1:22")
	dial("host", false, "udp", "10.77.0.1:123", "10.77.0.1:5001", "203.0.113.2:53", "198.18.5.1:5353")
	ping("host", false, "203.0.113.2", "198.18.5.1", "10.78.0.1")
	add("host", false, "an ICMP timestamp request to the gateway", on(one, request{Op: "echo", Proto: "timestamp", Addr: "10.77.0.1"}))
	add("host", false, "udp to the subnet's broadcast address", frame(one, host, func(m string) []byte {
		return ethernet("ff:ff:ff:ff:ff:ff", card1, kindIP4, ip4("10.77.0.10", "10.77.0.255", 17, 0, false, udp(4000, 5001, m)))
	}))
	add("host", false, "udp to the limited broadcast address", frame(one, host, func(m string) []byte {
		return ethernet("ff:ff:ff:ff:ff:ff", card1, kindIP4, ip4("10.77.0.10", "255.255.255.255", 17, 0, false, udp(4000, 5001, m)))
	}))
	add("host", false, "from DHCP's port to another service", frame(one, host, func(m string) []byte {
		return ethernet(cardBr, card1, kindIP4, ip4("10.77.0.10", "10.77.0.1", 17, 0, false, udp(68, 5001, m)))
	}))
	add("host", false, "from DNS's port to another service", frame(one, host, func(m string) []byte {
		return ethernet(cardBr, card1, kindIP4, ip4("10.77.0.10", "10.77.0.1", 17, 0, false, udp(53, 123, m)))
	}))
	add("host", false, "in two fragments, the port in the first", func(w *world, ms int) error {
		m := newMark()
		all := udp(4000, 5001, m+strings.Repeat("\x00", 64))
		for i, part := range [][]byte{all[:32], all[32:]} {
			f := ethernet(cardBr, card1, kindIP4, ip4("10.77.0.10", "10.77.0.1", 17, 32*i, i == 0, part))
			w.one.must(request{Op: "frame", Dev: "eth0", Data: text(f)})
		}
		if a := w.host.ask(request{Op: "got", Data: m, MS: ms}); !a.OK {
			return fmt.Errorf("%s", a.Err)
		}
		return nil
	})
	add("private", false, "in fragments, the port split off", func(w *world, ms int) error {
		m := newMark()
		all := udp(4000, 9000, m+strings.Repeat("\x00", 64))
		for i, part := range [][]byte{all[:8], all[8:]} {
			f := ethernet(cardBr, card1, kindIP4, ip4("10.77.0.10", "172.16.5.5", 17, 8*i, i == 0, part))
			w.one.must(request{Op: "frame", Dev: "eth0", Data: text(f)})
		}
		if a := w.net.ask(request{Op: "got", Data: m, MS: ms}); !a.OK {
			return fmt.Errorf("%s", a.Err)
		}
		return nil
	})
	dial("private", false, "tcp", "10.1.2.3:22", "10.1.2.3:5433", "172.16.5.5:80", "192.168.9.9:80", "100.64.0.9:80", "169.254.7.7:80")
	dial("private", false, "udp", "10.1.2.3:53", "10.1.2.3:7011", "192.168.9.9:53")
	ping("private", false, "10.1.2.3", "192.168.9.9")
	dial("connected", false, "tcp", "198.18.5.9:80", "203.0.113.1:80", "198.19.7.7:80")
	dial("connected", false, "udp", "198.18.5.9:9000")
	ping("connected", false, "198.18.5.9", "203.0.113.1", "198.19.7.7")
	dial("internet", true, "tcp", "198.18.99.9:80") // outside of the connected subnet 198.18.5.0/24
	dial("metadata", false, "tcp", "169.254.169.254:80", "100.100.100.200:80", "192.0.0.192:80", "168.63.129.16:80")
	dial("guests", false, "tcp", "10.77.0.11:80", "10.78.0.10:80")
	ping("guests", false, "10.77.0.11", "10.78.0.10")
	add("guests", false, "from the other network", on(three, request{Op: "dial", Proto: "tcp", Addr: "10.77.0.10:80"}))
	add("guests", false, "to a neighbour through the gateway", frame(one, func(w *world) *namespace { return w.two }, func(m string) []byte {
		return ethernet(cardBr, card1, kindIP4, ip4("10.77.0.10", "10.77.0.11", 17, 0, false, udp(4000, 9000, m)))
	}))
	add("inward", false, "from the connected subnet", on(lan, request{Op: "dial", Proto: "tcp", Addr: "10.77.0.10:22"}))
	add("inward", false, "from beyond the router", on(internet, request{Op: "dial", Proto: "tcp", Addr: "10.77.0.10:22"}))
	add("inward", false, "udp from the connected subnet", on(lan, request{Op: "dial", Proto: "udp", Addr: "10.77.0.10:9000"}))
	add("inward", false, "echo from the connected subnet", on(lan, request{Op: "echo", Addr: "10.77.0.10"}))
	return slices.Concat(out, arpProbes(), spoofs(), ipv6Probes())
}
