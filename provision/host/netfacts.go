package host

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"aivm.dev/aivm/internal/lazyre"
	"aivm.dev/aivm/internal/plan"
)

// netFact holds what affects a guest's packets on the host, besides libvirt.
type netFact struct {
	Docker    string           // the path that shows that Docker runs, "" if it does not
	UFW       plan.Known[bool] // enabled
	Firewalld bool             // runs
	Zone      bool             // firewalld knows libvirt's zone
	Backend   string           // firewall backend of libvirt's networks: "iptables", "nftables", "" unknown
	BridgeNF  bool             // bridged frames go through iptables too
	Bridges   []string         // bridges of active networks
	Ruleset   *plan.Known[ruleset]
	Tunnels   []tunnel
	Default   string // interface of the default route
	RoutesErr error
}

// tunnel is a network interface of a VPN.
type tunnel struct {
	Name, Kind string
	MTU        int
}

func netFacts(env Env) netFact {
	var n netFact
	there := func(p string) bool { _, err := env.Stat(p); return err == nil }
	for _, p := range []string{"/sys/class/net/docker0", "/run/docker.sock", "/run/docker.pid"} {
		if n.Docker == "" && there(p) {
			n.Docker = p
		}
	}
	n.UFW = assigned(env, "/etc/ufw/ufw.conf", "ENABLED", "yes")
	// systemd starts it without a pid file; its control group exists while it runs.
	n.Firewalld = there("/run/firewalld.pid") || there("/sys/fs/cgroup/system.slice/firewalld.service") || there("/sys/fs/cgroup/systemd/system.slice/firewalld.service")
	n.Zone = there("/usr/lib/firewalld/zones/libvirt.xml") || there("/etc/firewalld/zones/libvirt.xml")
	if b, err := env.Head("/proc/sys/net/bridge/bridge-nf-call-iptables", 8); err == nil {
		n.BridgeNF = strings.TrimSpace(string(b)) == "1"
	}
	n.Backend = configuredBackend(env)
	n.Tunnels = tunnels(env)
	n.Default, n.RoutesErr = defaultRoute(env)
	return n
}

// with adds what libvirt and root reported. libvirt before 10.4 always uses iptables: 10.4 is the
// first release with another backend (libvirt's release notes).
func (n netFact) with(a CallerFacts) netFact {
	n.Bridges = a.Bridges
	if n.Backend == "" && a.Libvirt != nil && a.Libvirt.Err == nil && older(a.Libvirt.Value.Library, 10, 4) {
		n.Backend = "iptables"
	}
	if a.Ruleset != nil {
		r := plan.Known[ruleset]{Err: a.Ruleset.Err}
		if r.Err == nil {
			r.Value, r.Err = parseRuleset(a.Ruleset.Value)
		}
		n.Ruleset = &r
		if r.Err == nil && n.Backend == "" && r.Value.has("libvirt_network") {
			n.Backend = "nftables"
		}
	}
	return n
}

// assigned reports whether a file of shell assignments sets a variable to this value.
func assigned(env Env, path, name, value string) plan.Known[bool] {
	b, err := env.Head(path, 1<<16)
	if errors.Is(err, fs.ErrNotExist) {
		return plan.Yes(false)
	}
	if err != nil {
		return plan.Unknown[bool](err)
	}
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok && strings.TrimSpace(k) == name {
			return plan.Yes(strings.EqualFold(strings.Trim(strings.TrimSpace(v), `"'`), value))
		}
	}
	return plan.Yes(false)
}

// configuredBackend returns the firewall backend that libvirt's configuration sets, or "".
func configuredBackend(env Env) string {
	if b, err := env.Head("/etc/libvirt/network.conf", 1<<16); err == nil {
		for line := range strings.Lines(string(b)) {
			if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok && strings.TrimSpace(k) == "firewall_backend" {
				return strings.Trim(strings.TrimSpace(v), `"'`)
			}
		}
	}
	return ""
}

// tunnels returns the network interfaces of VPNs: WireGuard's, PPP, and those that programs create
// with /dev/net/tun to carry packets (IFF_TUN; the taps of VMs carry frames).
func tunnels(env Env) []tunnel {
	names, err := env.ReadDir("/sys/class/net")
	if err != nil {
		return nil
	}
	slices.Sort(names)
	var out []tunnel
	for _, name := range names {
		dir := filepath.Join("/sys/class/net", name)
		read := func(file string) string {
			b, err := env.Head(filepath.Join(dir, file), 4096)
			if err != nil {
				return ""
			}
			return strings.TrimSpace(string(b))
		}
		t := tunnel{Name: name}
		flags, _ := strconv.ParseUint(strings.TrimPrefix(read("tun_flags"), "0x"), 16, 32)
		switch {
		case strings.Contains(read("uevent"), "DEVTYPE=wireguard"):
			t.Kind = "WireGuard"
		case flags&1 != 0:
			t.Kind = "tunnel"
		case read("type") == "512": // ARPHRD_PPP
			t.Kind = "PPP"
		default:
			continue
		}
		t.MTU, _ = strconv.Atoi(read("mtu"))
		out = append(out, t)
	}
	return out
}

// defaultRoute returns the interface of the default route with the lowest metric, or of the pair
// 0.0.0.0/1 and 128.0.0.0/1 with which OpenVPN overrides it.
func defaultRoute(env Env) (string, error) {
	b, err := env.Head("/proc/net/route", 1<<20)
	if err != nil {
		return "", err
	}
	best, metric, half := "", -1, ""
	for line := range strings.Lines(string(b)) {
		w := strings.Fields(line)
		if len(w) < 8 {
			continue
		}
		dst, err1 := hex.DecodeString(w[1])
		mask, err2 := hex.DecodeString(w[7])
		if err1 != nil || err2 != nil || len(dst) != 4 || len(mask) != 4 {
			continue // the header
		}
		m, _ := strconv.Atoi(w[6])
		switch to, by := leAddress(dst).String(), leAddress(mask).String(); {
		case to == "0.0.0.0" && by == "128.0.0.0":
			half = w[0]
		case to == "0.0.0.0" && by == "0.0.0.0" && (metric < 0 || m < metric):
			best, metric = w[0], m
		}
	}
	if half != "" {
		return half, nil
	}
	return best, nil
}

// ruleset holds the nftables rules that can drop packets.
type ruleset struct {
	tables     []string
	chains     []chain
	chainByKey map[string]chain  // chains by key
	rules      map[string][]rule // rules by key of their chain
}

// rule is one rule: its JSON without spaces, and the chains it jumps to.
type rule struct {
	expr string
	to   []string
}

// targetRE finds the target chains of "jump" and "goto".
var targetRE = lazyre.New(`"target":"([^"]*)"`)

type chain struct {
	Family, Table, Name, Hook, Policy string
}

func (c chain) key() string { return c.Family + " " + c.Table + " " + c.Name }

func (r ruleset) has(table string) bool { return slices.Contains(r.tables, table) }

// parseRuleset reads "nft -j list ruleset" (libnftables-json(5)).
func parseRuleset(b []byte) (ruleset, error) {
	var doc struct {
		Nftables []struct {
			Table *struct{ Family, Name string }
			Chain *chain
			Rule  *struct {
				Family, Table, Chain string
				Expr                 json.RawMessage
			}
		}
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return ruleset{}, fmt.Errorf("cannot parse the output of nft: %w", err)
	}
	r := ruleset{chainByKey: map[string]chain{}, rules: map[string][]rule{}}
	for _, o := range doc.Nftables {
		switch {
		case o.Table != nil:
			r.tables = append(r.tables, o.Table.Name)
		case o.Chain != nil:
			r.chains = append(r.chains, *o.Chain)
			r.chainByKey[o.Chain.key()] = *o.Chain
		case o.Rule != nil:
			k := chain{Family: o.Rule.Family, Table: o.Rule.Table, Name: o.Rule.Chain}.key()
			var expr bytes.Buffer
			if err := json.Compact(&expr, o.Rule.Expr); err != nil {
				return ruleset{}, fmt.Errorf("cannot parse the output of nft: %w", err)
			}
			one := rule{expr: expr.String()}
			if m := targetRE.FindStringSubmatch(one.expr); m != nil {
				one.to = m[1:]
			}
			r.rules[k] = append(r.rules[k], one)
		}
	}
	return r, nil
}

// blocked returns the chains with the policy drop in which no rule names the bridge: a packet that
// another table accepts is still dropped there (nft(8), base chains).
func (r ruleset) blocked(bridge string) []chain {
	var out []chain
	for _, c := range r.chains {
		routed := c.Hook == "forward" || c.Hook == "input"
		if !routed || c.Policy != "drop" || (c.Family != "ip" && c.Family != "inet") || strings.HasPrefix(c.Table, "aivm") {
			continue
		}
		if !r.mentions(c, bridge, map[string]bool{}) {
			out = append(out, c)
		}
	}
	return out
}

// mentions reports whether a rule of the chain, or of a chain it jumps to, names the bridge.
func (r ruleset) mentions(c chain, bridge string, seen map[string]bool) bool {
	if seen[c.key()] {
		return false
	}
	seen[c.key()] = true
	for _, one := range r.rules[c.key()] {
		if namesBridge(one.expr, bridge) {
			return true
		}
		for _, name := range one.to {
			to, ok := r.chainByKey[chain{Family: c.Family, Table: c.Table, Name: name}.key()]
			if ok && r.mentions(to, bridge, seen) {
				return true
			}
		}
	}
	return false
}

// namesBridge reports whether a rule names an interface, also by a matching wildcard.
func namesBridge(rule, bridge string) bool {
	for part := range strings.SplitSeq(rule, `"`) {
		if pre, wild := strings.CutSuffix(part, "*"); part == bridge || wild && pre != "" && strings.HasPrefix(bridge, pre) {
			return true
		}
	}
	return false
}

// owner returns the program a chain belongs to, or its table.
func (r ruleset) owner(c chain) string {
	var all strings.Builder
	for _, k := range r.chains {
		if k.Family == c.Family && k.Table == c.Table {
			all.WriteString(k.Name + " ")
		}
	}
	ufw, docker := false, false
	for _, one := range r.rules[c.key()] {
		for _, to := range one.to {
			ufw = ufw || strings.HasPrefix(to, "ufw-")
			docker = docker || strings.HasPrefix(to, "DOCKER")
		}
	}
	switch {
	case ufw:
		return "ufw"
	case docker, strings.Contains(all.String(), "DOCKER-USER"):
		return "Docker"
	case c.Table == "firewalld":
		return "firewalld"
	}
	return "table " + c.Family + " " + c.Table
}
