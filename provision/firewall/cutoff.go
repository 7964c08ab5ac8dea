package firewall

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"aivm.dev/aivm/internal/wall"
)

// A CutOff is something guests need that another program's rules drop. aivm's rules cannot change
// that: a packet must pass the rules of all programs.
type CutOff struct {
	What  string // "DHCP", "DNS", "connections to the internet"
	Chain string // "ip filter FORWARD"
	Fix   string // the command that makes the chain accept it
}

func (c CutOff) String() string {
	return fmt.Sprintf("chain %s drops the guests' %s; to accept it: %s", c.Chain, c.What, c.Fix)
}

// packet is an example packet whose path through the rules is followed.
type packet struct {
	hook     string
	iif, oif string
	proto    string
	from, to netip.Addr
	sport    int
	dport    int
	state    string
}

// chainID identifies a chain in a ruleset.
type chainID struct{ family, table, name string }

func (c chainID) String() string { return c.family + " " + c.table + " " + c.name }

type ruleset struct {
	base   []baseChain
	rules  map[chainID][][]map[string]json.RawMessage
	chains map[chainID]bool
}

type baseChain struct {
	chainID
	hook, policy string
}

// CutOffs follows the packets that a guest of the wall needs through the rules of all programs (nft
// -j list ruleset), and returns the chains that certainly drop one. A rule that cannot be
// interpreted may accept the packet, so its chain is not reported for any later rule.
func CutOffs(ruleset []byte, w wall.Wall, uplink string) ([]CutOff, error) {
	rs, err := readRuleset(ruleset)
	if err != nil {
		return nil, err
	}
	guest := w.Gateway.Next()
	if len(w.Guests) > 0 {
		guest = w.Guests[0].IP
	}
	far := netip.MustParseAddr("1.1.1.1")
	needs := []struct {
		what string
		p    packet
	}{
		{"DHCP", packet{hook: "input", iif: w.Bridge, proto: "udp", from: netip.IPv4Unspecified(), to: netip.MustParseAddr("255.255.255.255"), sport: 68, dport: 67, state: "new"}},
		{"DNS", packet{hook: "input", iif: w.Bridge, proto: "udp", from: guest, to: w.Gateway, sport: 40000, dport: 53, state: "new"}},
		{"connections to the internet", packet{hook: "forward", iif: w.Bridge, oif: uplink, proto: "tcp", from: guest, to: far, sport: 40000, dport: 443, state: "new"}},
		{"answers from the internet", packet{hook: "forward", iif: uplink, oif: w.Bridge, proto: "tcp", from: far, to: guest, sport: 443, dport: 40000, state: "established"}},
	}
	var out []CutOff
	for _, n := range needs {
		for _, b := range rs.base {
			if b.hook != n.p.hook || b.table == w.Table() {
				continue
			}
			verdict := rs.follow(b.chainID, n.p, 0)
			if verdict == drops || verdict == unmatched && b.policy == "drop" {
				out = append(out, CutOff{What: n.what, Chain: b.String(), Fix: rs.fix(b, w.Bridge)})
			}
		}
	}
	return out, nil
}

// fix returns the command with which the owner of the chain accepts the bridge's packets.
func (rs *ruleset) fix(b baseChain, bridge string) string {
	has := func(prefix string) bool {
		for c := range rs.chains {
			if c.table == b.table && strings.HasPrefix(c.name, prefix) {
				return true
			}
		}
		return false
	}
	switch {
	case b.hook == "forward" && has("DOCKER-USER"):
		return fmt.Sprintf("sudo sh -c 'iptables -I DOCKER-USER -i %[1]s -j ACCEPT; iptables -I DOCKER-USER -o %[1]s -j ACCEPT'", bridge)
	case b.table == "firewalld":
		return "sudo firewall-cmd --zone=libvirt --change-interface=" + bridge
	case has("ufw-") && b.hook == "forward":
		return "sudo ufw route allow in on " + bridge
	case has("ufw-"):
		return "sudo ufw allow in on " + bridge
	case b.hook == "forward":
		return fmt.Sprintf("sudo nft 'insert rule %[1]s iifname %[2]q accept; insert rule %[1]s oifname %[2]q accept'", b.chainID, bridge)
	}
	return fmt.Sprintf("sudo nft 'insert rule %s iifname %q accept'", b.chainID, bridge)
}

func readRuleset(b []byte) (*ruleset, error) {
	var doc struct {
		Nftables []struct {
			Chain *struct {
				Family, Table, Name, Hook, Policy string
			} `json:"chain"`
			Rule *struct {
				Family, Table, Chain string
				Expr                 []map[string]json.RawMessage
			} `json:"rule"`
		} `json:"nftables"`
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return nil, fmt.Errorf("reading the ruleset: %w", err)
	}
	rs := &ruleset{rules: map[chainID][][]map[string]json.RawMessage{}, chains: map[chainID]bool{}}
	for _, o := range doc.Nftables {
		if c := o.Chain; c != nil {
			id := chainID{c.Family, c.Table, c.Name}
			rs.chains[id] = true
			if c.Hook != "" && (c.Family == "ip" || c.Family == "inet") {
				rs.base = append(rs.base, baseChain{id, c.Hook, c.Policy})
			}
		}
		if r := o.Rule; r != nil {
			id := chainID{r.Family, r.Table, r.Chain}
			rs.rules[id] = append(rs.rules[id], r.Expr)
		}
	}
	return rs, nil
}

// verdict says what a chain does with a packet.
type verdict int

const (
	unmatched verdict = iota // to the next rule of the calling chain
	accepts                  // or may accept: the chain is not reported
	drops                    // certainly
	returned                 // by a return statement
)

// maxDepth limits the depth of jumps, as the kernel does (NFT_JUMP_STACK_SIZE).
const maxDepth = 16

func (rs *ruleset) follow(id chainID, p packet, depth int) verdict {
	if depth > maxDepth {
		return accepts
	}
	for _, rule := range rs.rules[id] {
		sure := yes
		for _, e := range rule {
			for kind, raw := range e {
				switch kind {
				case "match":
					sure = min(sure, matches(raw, p))
				case "counter", "log", "limit", "comment":
					if kind == "limit" {
						sure = min(sure, maybe)
					}
				case "accept":
					if sure >= maybe {
						return accepts
					}
				case "drop", "reject":
					if sure == yes {
						return drops
					}
				case "return":
					if sure == yes {
						return returned
					}
				case "jump", "goto":
					v := rs.call(id, raw, p, depth, sure)
					if v == accepts || v == drops && sure == yes {
						return v
					}
					if kind == "goto" && sure == yes {
						return v
					}
				default:
					// An unknown statement or match (xt, queue, vmap).
					sure = min(sure, maybe)
					if kind == "vmap" || kind == "queue" || kind == "xt" && strings.Contains(string(raw), `"target"`) && sure >= maybe {
						return accepts
					}
				}
			}
		}
	}
	return unmatched
}

func (rs *ruleset) call(from chainID, raw json.RawMessage, p packet, depth int, sure certainty) verdict {
	var to struct{ Target string }
	if sure == no || json.Unmarshal(raw, &to) != nil {
		return unmatched
	}
	v := rs.follow(chainID{from.family, from.table, to.Target}, p, depth+1)
	if v == returned {
		return unmatched
	}
	return v
}

type certainty int

const (
	no certainty = iota
	maybe
	yes
)

// matches reports whether one match applies to the packet.
func matches(raw json.RawMessage, p packet) certainty {
	var m struct {
		Op    string
		Left  json.RawMessage
		Right json.RawMessage
	}
	if json.Unmarshal(raw, &m) != nil {
		return maybe
	}
	var left struct {
		Meta    *struct{ Key string }
		Payload *struct{ Protocol, Field string }
		CT      *struct{ Key string } `json:"ct"`
	}
	if json.Unmarshal(m.Left, &left) != nil {
		return maybe
	}
	holds := maybe
	switch {
	case left.Meta != nil:
		switch left.Meta.Key {
		case "iifname":
			holds = anyOf(m.Right, func(s string) certainty { return name(s, p.iif) })
		case "oifname":
			holds = anyOf(m.Right, func(s string) certainty { return name(s, p.oif) })
		case "l4proto":
			holds = anyOf(m.Right, func(s string) certainty { return is(s == p.proto) })
		case "nfproto":
			holds = anyOf(m.Right, func(s string) certainty { return is(s == "ipv4") })
		}
	case left.CT != nil && left.CT.Key == "state":
		holds = anyOf(m.Right, func(s string) certainty { return is(s == p.state) })
		if m.Op == "in" {
			m.Op = "=="
		}
	case left.Payload != nil:
		switch f := left.Payload; {
		case f.Protocol == "ip" && f.Field == "saddr":
			holds = anyOf(m.Right, func(s string) certainty { return within(s, p.from) })
		case f.Protocol == "ip" && f.Field == "daddr":
			holds = anyOf(m.Right, func(s string) certainty { return within(s, p.to) })
		case f.Protocol == "ip" && f.Field == "protocol":
			holds = anyOf(m.Right, func(s string) certainty { return is(s == p.proto) })
		case f.Protocol == "ip6":
			return no
		case (f.Protocol == "tcp" || f.Protocol == "udp") && f.Protocol != p.proto:
			return no
		case f.Field == "dport":
			holds = anyPort(m.Right, p.dport)
		case f.Field == "sport":
			holds = anyPort(m.Right, p.sport)
		}
	}
	switch m.Op {
	case "==", "in":
		return holds
	case "!=":
		return yes - holds
	}
	return maybe
}

func is(b bool) certainty {
	if b {
		return yes
	}
	return no
}

// name compares an interface name with the one in a rule, which may end in "*".
func name(rule, have string) certainty {
	if prefix, ok := strings.CutSuffix(rule, "*"); ok {
		return is(strings.HasPrefix(have, prefix))
	}
	return is(rule == have)
}

func within(rule string, a netip.Addr) certainty {
	if strings.HasPrefix(rule, "@") {
		return maybe
	}
	p, err := wall.ParseNet(rule)
	if err != nil {
		return maybe
	}
	return is(p.Contains(a))
}

// values returns the elements of a match's right side: one, or those of a set.
func values(raw json.RawMessage) []json.RawMessage {
	var set struct{ Set []json.RawMessage }
	if json.Unmarshal(raw, &set) == nil && set.Set != nil {
		return set.Set
	}
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) == nil {
		return list
	}
	return []json.RawMessage{raw}
}

func anyOf(raw json.RawMessage, f func(string) certainty) certainty {
	best := no
	for _, v := range values(raw) {
		var s string
		var prefix struct {
			Prefix *struct {
				Addr string
				Len  int
			}
		}
		switch {
		case json.Unmarshal(v, &s) == nil:
		case json.Unmarshal(v, &prefix) == nil && prefix.Prefix != nil:
			s = fmt.Sprintf("%s/%d", prefix.Prefix.Addr, prefix.Prefix.Len)
		default:
			best = max(best, maybe)
			continue
		}
		best = max(best, f(s))
	}
	return best
}

func anyPort(raw json.RawMessage, port int) certainty {
	best := no
	for _, v := range values(raw) {
		var n int
		var r struct{ Range []int }
		switch {
		case json.Unmarshal(v, &n) == nil:
			best = max(best, is(n == port))
		case json.Unmarshal(v, &r) == nil && len(r.Range) == 2:
			best = max(best, is(r.Range[0] <= port && port <= r.Range[1]))
		default:
			best = max(best, maybe)
		}
	}
	return best
}

// Fixes returns the commands of the cut-offs, without duplicates.
func Fixes(cs []CutOff) []string {
	var out []string
	for _, c := range cs {
		if !slices.Contains(out, c.Fix) {
			out = append(out, c.Fix)
		}
	}
	return out
}
