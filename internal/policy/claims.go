package policy

import (
	"fmt"
	"strings"
)

// A Claim is one thing that is promised about the guests of a network. The table
// Claims is the one source of the sentence `status` prints, of the table in
// SECURITY.md, and of what the packet test proves (test/packets).
type Claim struct {
	ID   string
	Open bool   // the guest reaches it
	Says string // as SECURITY.md has it
	// Words are what the sentence of status has of it; "" if it says nothing
	// about this policy.
	Words func(Network) string
}

func always(s string) func(Network) string { return func(Network) string { return s } }

// Claims is all that is promised.
var Claims = []Claim{
	{"internet", true, "public addresses of the internet, TCP, UDP and ICMP", always("the internet")},
	{"gateway", true, "on its gateway: DHCP, DNS over UDP and TCP, echo", func(n Network) string {
		return fmt.Sprintf("DHCP, DNS and echo of its gateway %s", n.Gateway)
	}},
	{"answers", true, "whoever on this machine began the conversation (ssh, the editor)", always("")},
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
	{"host", false, "anything else of this machine, whichever of its addresses is used, IPv4 or IPv6; nor does it say by ARP which it has", always("other services of this machine")},
	{"private", false, "private, link-local, carrier and multicast networks, IPv4 and IPv6", always("private networks")},
	{"connected", false, "every network this machine is directly connected to, or reaches by a VPN or a routing table of its own, private or not", always("the networks this machine is connected to")},
	{"metadata", false, "the addresses where clouds keep a machine's credentials", always("cloud metadata")},
	{"guests", false, "other VMs, of its own network and of others", always("other VMs")},
	{"inward", false, "(from outside) nobody else can begin a conversation with a guest", always("")},
	{"spoofing", false, "(under another name) packets with an address or card that is not the VM's own", always("")},
	{"nat", false, "what a destination NAT of this machine (Docker's, yours) leads to, if its target is blocked", always("")},
	{"flush", false, "anything of the above while its rules are gone and put back: what began meanwhile is cut off", always("")},
}

// Sentence says what the guests of a network reach and what they do not.
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

func sequence(ss []string, last string) string {
	if len(ss) < 2 {
		return strings.Join(ss, "")
	}
	return strings.Join(ss[:len(ss)-1], ", ") + " " + last + " " + ss[len(ss)-1]
}
