package policy

import (
	"fmt"
	"strings"
)

// A Claim is one statement about what the guests of a network can reach or be reached by.
// The list Claims is the only source of the sentence that "aivm status" prints, of the
// table in SECURITY.md, and of what the packet test checks (test/packets).
type Claim struct {
	ID   string
	Open bool   // whether guests can reach it
	Says string // text of the row in SECURITY.md
	// Words returns the claim's part of the sentence; "" if it has none for this policy.
	Words func(Network) string
}

func always(s string) func(Network) string { return func(Network) string { return s } }

// Claims lists all claims.
var Claims = []Claim{
	{"internet", true, "public addresses of the internet, TCP, UDP and ICMP", always("the internet")},
	{"gateway", true, "on its gateway: DHCP, DNS over UDP and TCP, ICMP echo", func(n Network) string {
		return fmt.Sprintf("DHCP, DNS and echo of its gateway %s", n.Gateway)
	}},
	{"answers", true, "replies in connections that this machine opened (ssh, the editor)", always("")},
	{"ports", true, "the ports of this machine listed in allow_tcp_ports and allow_udp_ports", func(n Network) string {
		var out []string
		for _, p := range n.Ports {
			out = append(out, p.Proto+" "+p.String())
		}
		if len(out) == 0 {
			return ""
		}
		return "the ports " + strings.Join(out, ", ") + " of this machine"
	}},
	{"lan", true, "the addresses and ports listed in allow_lan", func(n Network) string {
		var out []string
		for _, e := range n.LAN {
			out = append(out, e.String())
		}
		return strings.Join(out, ", ")
	}},
	{"host", false, "all other services of this machine, on any of its addresses, IPv4 or IPv6; ARP requests for addresses other than the gateway's are not answered", always("other services of this machine")},
	{"private", false, "private, link-local, carrier-grade NAT and multicast networks, IPv4 and IPv6", always("private networks")},
	{"connected", false, "every network this machine is directly connected to, or reaches through a VPN or an additional routing table, private or not", always("the networks this machine is connected to")},
	{"metadata", false, "the addresses of cloud metadata services, which hand out a machine's credentials", always("cloud metadata")},
	{"guests", false, "other VMs, of its own network and of others", always("other VMs")},
	{"inward", false, "(inbound) connections to a guest from anywhere but this machine", always("")},
	{"spoofing", false, "(spoofing) packets with an IP or MAC address that is not the VM's own", always("")},
	{"nat", false, "targets of a destination NAT on this machine (Docker's, yours), if they are blocked", always("")},
	{"flush", false, "any of the above through a connection opened while the rules were removed: it is cut off when they are loaded again", always("")},
}

// Sentence describes what the guests of a network can reach and what they cannot.
func Sentence(n Network) string {
	var open, closed []string
	for _, c := range Claims {
		words := c.Words(n)
		switch {
		case words == "":
		case c.Open:
			open = append(open, words)
		default:
			closed = append(closed, words)
		}
	}
	return "reaches " + sequence(open, "and") + "; it does not reach " + sequence(closed, "or")
}

// sequence joins ss with commas, and with the word last before the final one.
func sequence(ss []string, last string) string {
	if len(ss) < 2 {
		return strings.Join(ss, "")
	}
	return strings.Join(ss[:len(ss)-1], ", ") + " " + last + " " + ss[len(ss)-1]
}
