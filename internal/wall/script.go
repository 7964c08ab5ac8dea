package wall

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Priorities of the chains.
const (
	// BeforeNAT comes before every destination NAT (-100) and after connection
	// tracking (-200).
	BeforeNAT = -150
	// beforeFilter comes before other people's filters (0), which may cut more
	// and cannot give anything back.
	beforeFilter = -10
	atBridge     = -300 // ebtables' filter is -200
	atARP        = -10  // arptables' filter is 0
)

// Script renders a policy: the ruleset that replaces the tables in one transaction.
// local are the subnets this machine is directly connected to.
func Script(w Wall, local []netip.Prefix) string {
	var b strings.Builder
	b.WriteString(Removal(w))
	t, br := w.Table(), w.Bridge
	block4, block6 := w.Blocked(local)

	fmt.Fprintf(&b, "table inet %s {\n", t)
	set(&b, "block4", "ipv4_addr", true, texts(block4))
	set(&b, "block6", "ipv6_addr", true, texts(block6))
	set(&b, "lan4", "ipv4_addr . inet_proto . inet_service", true, endpoints(w.LAN, false))
	set(&b, "lan6", "ipv6_addr . inet_proto . inet_service", true, endpoints(w.LAN, true))
	set(&b, "ports", "inet_proto . inet_service", true, ports(w.OpenPorts()))
	set(&b, "pairs", "ether_addr . ipv4_addr", false, pairs(w.Guests))
	base(&b, "prerouting", "prerouting", BeforeNAT, fmt.Sprintf("iifname %q jump arriving", br))
	// All that comes to the input hook is for this machine, whatever address it
	// names: a transparent proxy takes packets for others.
	base(&b, "input", "input", beforeFilter, fmt.Sprintf("iifname %q jump to_host", br))
	base(&b, "forward", "forward", beforeFilter,
		fmt.Sprintf("iifname %q jump to_net", br),
		// Nobody starts a conversation with a guest from elsewhere; another
		// network's guests least of all.
		fmt.Sprintf("oifname %q iifname != %q ct direction original drop", br, br))
	// A conversation that was begun without being seen, by a guest while the
	// rules were gone, looks as if this machine began it as soon as this machine
	// says something in it. Those of TCP can be told: they do not begin with SYN.
	base(&b, "output", "output", beforeFilter,
		fmt.Sprintf("oifname %q ct state new tcp flags & (fin | syn | rst | ack) != syn drop", br))
	chain(&b, "arriving",
		"meta nfproto ipv4 ip saddr 0.0.0.0 udp sport 68 udp dport 67 return",
		"meta nfproto ipv4 ether saddr . ip saddr != @pairs drop",
		"fib daddr type { local, broadcast } goto to_host",
		"goto to_net")
	// An answer belongs to a conversation the other side began. What a guest
	// began is judged packet by packet: it may have begun while the rules were
	// gone.
	answers := []string{
		"ct direction reply ct state established accept",
		"meta l4proto { icmp, icmpv6 } ct state related accept",
		"ip daddr . meta l4proto . th dport @lan4 accept",
		"ip6 daddr . meta l4proto . th dport @lan6 accept",
	}
	chain(&b, "to_host", append(slices.Clone(answers),
		fmt.Sprintf("ip daddr { %s, 255.255.255.255 } udp sport 68 udp dport 67 accept", w.Gateway),
		fmt.Sprintf("ip daddr %s meta l4proto { tcp, udp } th dport 53 accept", w.Gateway),
		fmt.Sprintf("ip daddr %s icmp type echo-request accept", w.Gateway),
		"meta l4proto . th dport @ports accept",
		"drop")...)
	chain(&b, "to_net", append(slices.Clone(answers),
		"ip daddr @block4 drop",
		"ip6 daddr @block6 drop",
		"accept")...)
	b.WriteString("}\n")

	fmt.Fprintf(&b, "table bridge %s {\n", t)
	set(&b, "guests", "ether_addr", false, cards(w.Guests))
	set(&b, "pairs", "ether_addr . ipv4_addr", false, pairs(w.Guests))
	set(&b, "placed", "ether_addr", false, cards(placed(w.Guests)))
	set(&b, "places", "ifname . ether_addr", false, places(w.Guests))
	base(&b, "prerouting", "prerouting", atBridge,
		// A guest that knows its neighbour's card and address is still not on
		// its port.
		"ether saddr @placed iifname . ether saddr != @places drop",
		"ether saddr @guests goto own",
		fmt.Sprintf("ether type ip ip saddr %s drop", w.Subnet),
		fmt.Sprintf("ether type arp arp saddr ip %s drop", w.Subnet))
	// IPv6 is not among what a guest's card may send: the network has none, and
	// nothing of neighbour discovery or router advertisements is wanted.
	chain(&b, "own",
		"ether type ip ether saddr . ip saddr @pairs accept",
		"ether type ip ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept",
		"ether type arp ether saddr . arp saddr ip @pairs arp saddr ether . arp saddr ip @pairs accept",
		"ether type arp arp saddr ip 0.0.0.0 arp saddr ether @guests accept",
		"drop")
	b.WriteString("}\n")

	// This machine says of its addresses where the gateway is and nothing else:
	// whichever of them it is asked for, it would answer (arp_ignore of Linux is
	// 0). The question is dropped for its own sake and the answer for that of
	// questions nft does not read, of another kind of hardware.
	fmt.Fprintf(&b, "table arp %s {\n", t)
	base(&b, "input", "input", atARP, fmt.Sprintf("iifname %q arp operation request arp daddr ip != %s drop", br, w.Gateway))
	base(&b, "output", "output", atARP, fmt.Sprintf("oifname %q arp operation reply arp saddr ip != %s drop", br, w.Gateway))
	b.WriteString("}\n")
	return b.String()
}

// Digest is that of the rules Script makes.
func Digest(w Wall, local []netip.Prefix) string {
	sum := sha256.Sum256([]byte(Script(w, local)))
	return hex.EncodeToString(sum[:])
}

// Removal takes the tables away, whether they are there or not.
func Removal(w Wall) string {
	var b strings.Builder
	for _, t := range w.Tables() {
		fmt.Fprintf(&b, "table %s\ndelete table %s\n", t, t)
	}
	return b.String()
}

func set(b *strings.Builder, name, typ string, interval bool, elements []string) {
	fmt.Fprintf(b, "\tset %s {\n\t\ttype %s\n", name, typ)
	if interval {
		b.WriteString("\t\tflags interval\n")
	}
	if len(elements) > 0 {
		fmt.Fprintf(b, "\t\telements = { %s }\n", strings.Join(elements, ", "))
	}
	b.WriteString("\t}\n")
}

func base(b *strings.Builder, name, hook string, priority int, rules ...string) {
	chain(b, name, append([]string{fmt.Sprintf("type filter hook %s priority %d; policy accept;", hook, priority)}, rules...)...)
}

func chain(b *strings.Builder, name string, rules ...string) {
	fmt.Fprintf(b, "\tchain %s {\n\t\t%s\n\t}\n", name, strings.Join(rules, "\n\t\t"))
}

func texts(ps []netip.Prefix) []string {
	out := make([]string, 0, len(ps))
	for _, p := range ps {
		out = append(out, p.String())
	}
	return out
}

func endpoints(es []Endpoint, six bool) []string {
	var out []string
	for _, e := range es {
		if e.Net.Addr().Is6() == six {
			out = append(out, fmt.Sprintf("%s . %s . %s", e.Net, e.Proto, e.Ports))
		}
	}
	return unique(out)
}

func ports(ps []Ports) []string {
	var out []string
	for _, p := range ps {
		out = append(out, p.Proto+" . "+p.String())
	}
	return out
}

func pairs(gs []Guest) []string {
	var out []string
	for _, g := range gs {
		out = append(out, g.MAC+" . "+g.IP.String())
	}
	return unique(out)
}

// placed are the guests whose port is known.
func placed(gs []Guest) []Guest {
	var out []Guest
	for _, g := range gs {
		if g.Port != "" {
			out = append(out, g)
		}
	}
	return out
}

func places(gs []Guest) []string {
	var out []string
	for _, g := range placed(gs) {
		out = append(out, fmt.Sprintf("%q . %s", g.Port, g.MAC))
	}
	return unique(out)
}

func cards(gs []Guest) []string {
	var out []string
	for _, g := range gs {
		out = append(out, g.MAC)
	}
	return unique(out)
}

func unique(ss []string) []string {
	slices.Sort(ss)
	return slices.Compact(ss)
}
