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
	// BeforeNAT runs before any destination NAT (-100) and after connection tracking
	// (-200).
	BeforeNAT = -150
	// beforeFilter runs before other programs' filter chains (0). They may drop more
	// packets, but cannot accept what is dropped here.
	beforeFilter = -10
	atBridge     = -300 // before the filter chain of ebtables (-200)
	atARP        = -10  // before the filter chain of arptables (0)
)

// Script renders a policy as an nft script that replaces the network's tables in one
// transaction. local are the networks the host is connected to (LocalNetworks).
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
	// All packets at the input hook are for this host, whatever their destination
	// address is: a transparent proxy accepts packets for other addresses.
	base(&b, "input", "input", beforeFilter, fmt.Sprintf("iifname %q jump to_host", br))
	base(&b, "forward", "forward", beforeFilter,
		fmt.Sprintf("iifname %q jump to_net", br),
		// No connection to a guest from other interfaces, including those of other
		// guest networks.
		fmt.Sprintf("oifname %q iifname != %q ct direction original drop", br, br))
	// If a guest opens a connection while the rules are removed, conntrack does not see its
	// start. The host's next packet in it then looks as if the host opened the connection.
	// For TCP this can be detected: the packet is new to conntrack but is not a SYN.
	base(&b, "output", "output", beforeFilter,
		fmt.Sprintf("oifname %q ct state new tcp flags & (fin | syn | rst | ack) != syn drop", br))
	chain(&b, "arriving",
		"meta nfproto ipv4 ip saddr 0.0.0.0 udp sport 68 udp dport 67 return",
		"meta nfproto ipv4 ether saddr . ip saddr != @pairs drop",
		"fib daddr type { local, broadcast } goto to_host",
		"goto to_net")
	// Replies belong to a connection the other side opened. In connections a guest
	// opened every packet is checked, since they may have been opened while the rules
	// were removed.
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
		// A guest that uses the MAC and IP address of another one sends from another
		// tap device.
		"ether saddr @placed iifname . ether saddr != @places drop",
		"ether saddr @guests goto own",
		fmt.Sprintf("ether type ip ip saddr %s drop", w.Subnet),
		fmt.Sprintf("ether type arp arp saddr ip %s drop", w.Subnet))
	// A guest may not send IPv6: the network has none, and neighbour discovery and
	// router advertisements are not wanted.
	chain(&b, "own",
		"ether type ip ether saddr . ip saddr @pairs accept",
		"ether type ip ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept",
		"ether type arp ether saddr . arp saddr ip @pairs arp saddr ether . arp saddr ip @pairs accept",
		"ether type arp arp saddr ip 0.0.0.0 arp saddr ether @guests accept",
		"drop")
	b.WriteString("}\n")

	// The host answers ARP requests for the gateway's address only. By default
	// (arp_ignore is 0) Linux answers for all of the host's addresses. Requests are
	// dropped; replies too, since nft does not match requests of other hardware types.
	fmt.Fprintf(&b, "table arp %s {\n", t)
	base(&b, "input", "input", atARP, fmt.Sprintf("iifname %q arp operation request arp daddr ip != %s drop", br, w.Gateway))
	base(&b, "output", "output", atARP, fmt.Sprintf("oifname %q arp operation reply arp saddr ip != %s drop", br, w.Gateway))
	b.WriteString("}\n")
	return b.String()
}

// Digest returns the SHA-256 of Script, in hex.
func Digest(w Wall, local []netip.Prefix) string {
	sum := sha256.Sum256([]byte(Script(w, local)))
	return hex.EncodeToString(sum[:])
}

// Removal returns an nft script that deletes the network's tables, whether or not they
// exist.
func Removal(w Wall) string {
	var b strings.Builder
	for _, t := range w.Tables() {
		fmt.Fprintf(&b, "table %s\ndelete table %s\n", t, t)
	}
	return b.String()
}

// set writes a set with its elements.
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

// base writes a base chain, which is attached to a hook.
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

// placed returns the guests whose Port is known.
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
