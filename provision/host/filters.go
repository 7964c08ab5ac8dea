package host

import (
	"fmt"
	"slices"
	"strings"
)

// checkFilters reports what Docker, ufw, firewalld and the like do to the packets of guests.
// libvirt accepts these packets in its own rules. With libvirt's iptables backend these rules are
// in the chains of the other programs, before the ones that drop. With the nftables backend they
// are in a separate table, and the other programs still drop the packets.
func checkFilters(f Facts, x Examination) Check {
	c := Check{ID: "filters", Label: "Other firewalls", State: OK}
	n := x.Net
	var active []string
	if n.Docker != "" {
		active = append(active, "Docker")
		c.addEvidence("Docker: %s", n.Docker)
	}
	if n.UFW.Value {
		active = append(active, "ufw")
		c.addEvidence("/etc/ufw/ufw.conf: ENABLED=yes")
	}
	if n.Firewalld {
		active = append(active, "firewalld")
		c.addEvidence("firewalld runs, zone libvirt: %v", n.Zone)
	}
	if n.Backend != "" {
		c.addEvidence("libvirt's backend for networks: %s", n.Backend)
	}
	if n.BridgeNF {
		c.addEvidence("bridge-nf-call-iptables: 1, packets between VMs pass iptables too")
	}
	if len(active) == 0 {
		c.addEvidence("no docker0, no Docker socket, ufw not enabled, firewalld not running")
	}
	who := strings.Join(active, " and ")
	if n.Firewalld && !n.Zone && f.Tools["libvirtd"] != "" {
		c.State = Bad
		c.Detail = "firewalld runs without libvirt's zone, so it blocks guests: they get no address"
		c.Fix = []string{"sudo systemctl restart firewalld " + f.Libvirtd.Name + " (after libvirt was installed)", "firewall-cmd --get-zones"}
		return c
	}
	if n.Ruleset != nil && n.Ruleset.Err == nil {
		return judgeRules(c, f, n, who)
	}
	why := "only root can read its rules"
	if n.Ruleset != nil {
		why = n.Ruleset.Err.Error()
	}
	switch {
	case n.UFW.Err != nil && len(active) == 0:
		c.State, c.Detail = Unknown, "cannot tell whether ufw is enabled: "+n.UFW.Err.Error()
	case n.Docker == "" && !n.UFW.Value && n.Firewalld:
		c.Detail = "firewalld runs, and has libvirt's zone for guests"
	case len(active) == 0:
		c.Detail = "neither Docker nor ufw nor firewalld"
	case n.Backend == "iptables":
		c.Detail = who + " drops packets it has no rule for, but libvirt's rules for guests come first"
	default:
		c.State = Unknown
		c.Detail = who + " drops packets it has no rule for; whether it drops those of guests is unknown: " + why
		c.Fix = []string{"aivm host doctor --sudo"}
	}
	return c
}

// judgeRules checks the loaded rules for the bridges of active networks.
func judgeRules(c Check, f Facts, n netFact, who string) Check {
	r := n.Ruleset.Value
	c.addEvidence("nft list ruleset: %d tables, %d chains", len(r.tables), len(r.chains))
	if len(n.Bridges) == 0 {
		c.Detail = "no network is active yet, so there are no guests' packets to drop"
		if who != "" {
			c.Detail = who + " is active; no network is active yet, so the rules for guests cannot be checked"
		}
		return c
	}
	var owners, dropping []string
	for _, b := range n.Bridges {
		for _, k := range r.blocked(b) {
			o := r.owner(k)
			dropping = append(dropping, fmt.Sprintf("%s (chain %s of table %s %s, hook %s)", b, k.Name, k.Family, k.Table, k.Hook))
			c.Fix = append(c.Fix, letThrough(f, o, b, k.Hook)...)
			if !slices.Contains(owners, o) {
				owners = append(owners, o)
			}
		}
	}
	if len(dropping) > 0 {
		c.State = Bad
		c.Detail = strings.Join(owners, " and ") + " drops guests' packets: " + strings.Join(dropping, ", ")
		if n.Backend == "nftables" && slices.Contains(owners, "Docker") {
			c.Fix = append(c.Fix, "or permanently: firewall_backend = \"iptables\" in /etc/libvirt/network.conf, then sudo systemctl restart "+networkDaemon(f))
		}
		slices.Sort(c.Fix)
		c.Fix = slices.Compact(c.Fix)
		return c
	}
	c.Detail = "no firewall drops guests' packets"
	if who != "" {
		c.Detail += " (" + who + " is active)"
	}
	return c
}

func networkDaemon(f Facts) string {
	if len(f.Parts) > 0 {
		return "virtnetworkd"
	}
	return "libvirtd"
}

// letThrough returns the commands that make the owner of a chain accept a bridge's packets.
func letThrough(f Facts, owner, bridge, hook string) []string {
	switch {
	case owner == "Docker" && hook == "forward":
		return []string{"sudo iptables -I DOCKER-USER -i " + bridge + " -j ACCEPT", "sudo iptables -I DOCKER-USER -o " + bridge + " -j ACCEPT"}
	case owner == "ufw" && hook == "forward":
		return []string{"sudo ufw route allow in on " + bridge, "sudo ufw route allow out on " + bridge}
	case owner == "ufw":
		return []string{"sudo ufw allow in on " + bridge + " to any port 53", "sudo ufw allow in on " + bridge + " to any port 67 proto udp"}
	}
	return []string{"accept packets of " + bridge + " in that chain: sudo nft list ruleset"}
}

// checkVPN reports whether a VPN carries the packets of guests. They leave by the host's routes, so
// a VPN with the default route carries them, unless its kill switch drops forwarded packets.
func checkVPN(x Examination) Check {
	c := Check{ID: "vpn", Label: "VPN", State: OK, Detail: "none: guests' packets leave through " + x.Net.Default}
	n := x.Net
	if n.RoutesErr != nil {
		c.State, c.Detail = Unknown, "cannot read the routes: "+n.RoutesErr.Error()
		return c
	}
	if n.Default == "" {
		c.Detail = "none"
		if len(n.Tunnels) == 0 {
			c.Detail = "none, and no default route: guests reach only what this machine reaches"
		}
	} else {
		c.addEvidence("default route: %s", n.Default)
	}
	if len(n.Tunnels) == 0 {
		return c
	}
	var names []string
	via := tunnel{}
	for _, t := range n.Tunnels {
		names = append(names, t.Name+" ("+t.Kind+")")
		c.addEvidence("%s: %s, MTU %d", t.Name, t.Kind, t.MTU)
		if t.Name == n.Default {
			via = t
		}
	}
	switch {
	case via.Name != "":
		c.State = Unknown
		c.Detail = fmt.Sprintf("%s (%s) has the default route, so it carries guests' packets; only a test in a guest shows whether it forwards them", via.Name, via.Kind)
		c.Fix = []string{"try in a guest: aivm ssh . -- curl -sI https://example.org", "if it fails: let the VPN's kill switch accept packets from local networks"}
		if via.MTU > 0 && via.MTU < 1500 {
			c.Detail += fmt.Sprintf("; its packets are smaller (%d bytes) than the guest's", via.MTU)
			c.Fix = append(c.Fix, fmt.Sprintf("if only large transfers hang: in the guest, sudo ip link set dev enp1s0 mtu %d", via.MTU))
		}
	default:
		c.Detail = strings.Join(names, ", ") + "; the default route goes through " + orNothing(n.Default) + ", but routing rules of a VPN (such as wg-quick's) may send packets elsewhere"
	}
	return c
}

func orNothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}
