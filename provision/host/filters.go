package host

import (
	"fmt"
	"slices"
	"strings"
)

// checkFilters says what Docker, ufw, firewalld and the like do to the packets
// of guests. libvirt lets them through in rules of its own. With its iptables
// backend these stand in the chains of the others, before what drops; with the
// nftables backend they are a table of their own, and the others still drop.
func checkFilters(f Facts, x Examination) Check {
	c := Check{ID: "filters", Label: "Other firewalls", State: OK}
	n := x.Net
	var here []string
	if n.Docker != "" {
		here = append(here, "Docker")
		c.saw("Docker: %s", n.Docker)
	}
	if n.UFW.Value {
		here = append(here, "ufw")
		c.saw("/etc/ufw/ufw.conf: ENABLED=yes")
	}
	if n.Firewalld {
		here = append(here, "firewalld")
		c.saw("firewalld runs, zone libvirt: %v", n.Zone)
	}
	if n.Backend != "" {
		c.saw("libvirt's backend for networks: %s", n.Backend)
	}
	if n.BridgeNF {
		c.saw("bridge-nf-call-iptables: 1, packets between VMs pass iptables too")
	}
	if len(here) == 0 {
		c.saw("no docker0, no Docker socket, ufw not enabled, firewalld not running")
	}
	who := strings.Join(here, " and ")
	if n.Firewalld && !n.Zone && f.Tools["libvirtd"] != "" {
		c.State = Bad
		c.Detail = "firewalld runs without libvirt's zone, so it treats guests as strangers: they get no address"
		c.Fix = []string{"sudo systemctl restart firewalld " + f.Libvirtd.Name + " (after libvirt was installed)", "firewall-cmd --get-zones"}
		return c
	}
	if n.Ruleset != nil && n.Ruleset.Err == nil {
		return judgeRules(c, f, n, who)
	}
	why := "its rules are for root to see"
	if n.Ruleset != nil {
		why = n.Ruleset.Err.Error()
	}
	switch {
	case n.UFW.Err != nil && len(here) == 0:
		c.State, c.Detail = Unknown, "whether ufw is on: "+n.UFW.Err.Error()
	case n.Docker == "" && !n.UFW.Value && n.Firewalld:
		c.Detail = "firewalld runs, and has libvirt's zone for guests"
	case len(here) == 0:
		c.Detail = "neither Docker nor ufw nor firewalld"
	case n.Backend == "iptables":
		c.Detail = who + " drops what it does not know, but libvirt's rules for guests stand before that"
	default:
		c.State = Unknown
		c.Detail = who + " drops what it does not know; whether guests are among that is not known: " + why
		c.Fix = []string{"aivm host doctor --sudo"}
	}
	return c
}

// judgeRules looks at the real rules, for the bridges of networks that run.
func judgeRules(c Check, f Facts, n netFact, who string) Check {
	r := n.Ruleset.Value
	c.saw("nft list ruleset: %d tables, %d chains", len(r.tables), len(r.chains))
	if len(n.Bridges) == 0 {
		c.Detail = "no network runs yet, so there is nothing that could be dropped"
		if who != "" {
			c.Detail = who + " is here; no network runs yet, so what it drops of guests' packets will show later"
		}
		return c
	}
	var owners, said []string
	for _, b := range n.Bridges {
		for _, k := range r.blocked(b) {
			o := r.owner(k)
			said = append(said, fmt.Sprintf("%s (chain %s of table %s %s, hook %s)", b, k.Name, k.Family, k.Table, k.Hook))
			c.Fix = append(c.Fix, letThrough(f, o, b, k.Hook)...)
			if !slices.Contains(owners, o) {
				owners = append(owners, o)
			}
		}
	}
	if len(said) > 0 {
		c.State = Bad
		c.Detail = strings.Join(owners, " and ") + " drops the packets of guests: " + strings.Join(said, ", ")
		if n.Backend == "nftables" && slices.Contains(owners, "Docker") {
			c.Fix = append(c.Fix, "or for good: firewall_backend = \"iptables\" in /etc/libvirt/network.conf, then sudo systemctl restart "+networkDaemon(f))
		}
		slices.Sort(c.Fix)
		c.Fix = slices.Compact(c.Fix)
		return c
	}
	c.Detail = "the packets of guests get through"
	if who != "" {
		c.Detail += " beside " + who
	}
	return c
}

func networkDaemon(f Facts) string {
	if len(f.Parts) > 0 {
		return "virtnetworkd"
	}
	return "libvirtd"
}

// letThrough is what makes an owner of rules let a bridge's packets through.
func letThrough(f Facts, owner, bridge, hook string) []string {
	switch {
	case owner == "Docker" && hook == "forward":
		return []string{"sudo iptables -I DOCKER-USER -i " + bridge + " -j ACCEPT", "sudo iptables -I DOCKER-USER -o " + bridge + " -j ACCEPT"}
	case owner == "ufw" && hook == "forward":
		return []string{"sudo ufw route allow in on " + bridge, "sudo ufw route allow out on " + bridge}
	case owner == "ufw":
		return []string{"sudo ufw allow in on " + bridge + " to any port 53", "sudo ufw allow in on " + bridge + " to any port 67 proto udp"}
	}
	return []string{"let " + bridge + " through there: sudo nft list ruleset"}
}

// checkVPN: guests' packets leave by this machine's routes. A VPN that has the
// default route carries them too, unless its kill switch drops what this
// machine only passes on.
func checkVPN(x Examination) Check {
	c := Check{ID: "vpn", Label: "VPN", State: OK, Detail: "none: guests' packets leave through " + x.Net.Default}
	n := x.Net
	if n.RoutesErr != nil {
		c.State, c.Detail = Unknown, "the routes cannot be read: "+n.RoutesErr.Error()
		return c
	}
	if n.Default == "" {
		c.Detail = "none"
		if len(n.Tunnels) == 0 {
			c.Detail = "none, and no default route: guests reach what this machine reaches"
		}
	} else {
		c.saw("default route: %s", n.Default)
	}
	if len(n.Tunnels) == 0 {
		return c
	}
	var names []string
	via := tunnel{}
	for _, t := range n.Tunnels {
		names = append(names, t.Name+" ("+t.Kind+")")
		c.saw("%s: %s, MTU %d", t.Name, t.Kind, t.MTU)
		if t.Name == n.Default {
			via = t
		}
	}
	switch {
	case via.Name != "":
		c.State = Unknown
		c.Detail = fmt.Sprintf("%s (%s) has the default route, so guests' packets go through it; whether it lets them pass shows only in a guest", via.Name, via.Kind)
		c.Fix = []string{"try in a guest: aivm ssh . -- curl -sI https://example.org", "if it fails: let the VPN's kill switch pass what comes from local networks"}
		if via.MTU > 0 && via.MTU < 1500 {
			c.Detail += fmt.Sprintf("; its packets are smaller (%d bytes) than the guest's", via.MTU)
			c.Fix = append(c.Fix, fmt.Sprintf("if only large transfers hang: in the guest, sudo ip link set dev enp1s0 mtu %d", via.MTU))
		}
	default:
		c.Detail = strings.Join(names, ", ") + "; the default route goes through " + orNothing(n.Default) + ", and rules of a VPN (wg-quick's, for one) may send packets elsewhere"
	}
	return c
}

func orNothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}
