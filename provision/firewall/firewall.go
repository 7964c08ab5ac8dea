// Package firewall plans the nftables rules that keep guests away from the host and its networks:
// it builds the rules the config asks for, compares them with those in the kernel, and plans what
// is missing.
//
// It reads the manifest that the privileged helper wrote and the rules in the kernel; only root.Nft
// changes anything. Invariants: rules are compared by content, never by a mark on them; rules that
// could not be read are unknown, and with unknown rules a run stops; tables of other programs are
// never changed, and those that bypass aivm's rules are named.
package firewall

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/root/nftread"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/wall"
)

// Facts are what was read about one network's rules.
type Facts struct {
	Manifest plan.Known[*root.NetManifest] // nil: none, the rules were never loaded
	Kernel   plan.Known[nftread.Content]   // read only if there is a manifest
	Local    plan.Known[[]netip.Prefix]    // subnets this machine is connected to now
}

// ErrPasswordNeeded means that only sudo can read the kernel's rules, and that it would ask for a
// password.
var ErrPasswordNeeded = errors.New("sudo would ask for a password")

// Want returns the wall that the config asks for, for these guests.
func Want(fw config.Firewall, spec config.NetworkSpec, guests []wall.Guest) (wall.Wall, error) {
	w := wall.Wall{Network: spec.Name, Prefix: fw.Table, Bridge: spec.Bridge, Guests: guests}
	bad := func(key string, err error) error {
		return ui.Refused("the firewall of network %q: %s: %w", spec.Name, key, err).Hint(ui.Cmd("aivm config edit"))
	}
	if w.Prefix == "" {
		w.Prefix = "aivm_sandbox"
	}
	var err error
	if w.Subnet, err = netip.ParsePrefix(spec.SubnetCIDR); err != nil {
		return w, bad("subnet_cidr", err)
	}
	w.Subnet = w.Subnet.Masked()
	if w.Gateway, err = netip.ParseAddr(spec.GatewayIP); err != nil {
		return w, bad("gateway_ip", err)
	}
	for _, list := range []struct {
		key  string
		nets []string
	}{{"block_cidrs", fw.BlockCIDRs}, {"extra_block_cidrs", fw.ExtraBlockCIDRs}} {
		for _, s := range list.nets {
			if s == "" {
				continue
			}
			p, err := wall.ParseNet(s)
			if err != nil {
				return w, bad(list.key, err)
			}
			w.Block = append(w.Block, p)
		}
	}
	for proto, list := range map[string][]string{"tcp": fw.AllowTCPPorts, "udp": fw.AllowUDPPorts} {
		for _, s := range list {
			p, err := wall.ParsePorts(proto, s)
			if err != nil {
				return w, bad("allow_"+proto+"_ports", err)
			}
			w.Ports = append(w.Ports, p)
		}
	}
	// The iteration order of a map is random; sorting makes the record the same every time.
	slices.SortFunc(w.Ports, func(a, b wall.Ports) int { return strings.Compare(a.Proto+a.String(), b.Proto+b.String()) })
	for _, s := range fw.AllowLAN {
		e, err := wall.ParseEndpoint(s)
		if err != nil {
			return w, bad("allow_lan", err)
		}
		w.LAN = append(w.LAN, e)
	}
	if err := w.Check(); err != nil {
		return w, bad("network settings", err)
	}
	return w, nil
}

// State says how the rules in the kernel compare with the wanted ones.
type State string

// The states of a wall.
const (
	Loaded   State = "in place"
	Missing  State = "missing" // never loaded, or flushed
	Altered  State = "altered" // changed by another program or user
	Outdated State = "older"   // unchanged since they were loaded, but other rules are wanted now
	Unknown  State = "unknown"
)

// Compare returns the state of the rules and the reason for it.
func Compare(f Facts, want wall.Wall) (State, string, error) {
	switch {
	case f.Manifest.Err != nil:
		return Unknown, "", f.Manifest.Err
	case f.Manifest.Value == nil:
		return Missing, "they were never loaded", nil
	case f.Local.Err != nil:
		return Unknown, "", f.Local.Err
	case f.Kernel.Err != nil:
		return Unknown, "", f.Kernel.Err
	}
	m := f.Manifest.Value
	switch {
	case f.Kernel.Value.Digest == "":
		return Missing, "they are not loaded", nil
	case f.Kernel.Value.Digest != m.Digest:
		return Altered, "another program or user changed them", nil
	case m.Script != wall.Digest(want, f.Local.Value):
		return Outdated, "the config, the VMs, this machine's networks or the version of aivm changed", nil
	}
	return Loaded, "", nil
}

// ID returns the ID of the action that loads a network's rules.
func ID(network string) string { return "firewall.rules:" + network }

// Plan loads the rules unless they are loaded. Rules that were approved before need no consent.
// sudoMayAsk means that the user can type sudo's password: rules that only root can read are then
// loaded again, which also compares and repairs them.
func Plan(f Facts, want wall.Wall, sudoMayAsk bool) ([]plan.Action, error) {
	state, why, err := Compare(f, want)
	if state == Loaded {
		return nil, nil
	}
	op := root.Nft{Wall: want}
	a := plan.Action{ID: ID(want.Network), Shows: op.Shows(), Root: op, Timing: "define"}
	switch {
	case state == Unknown && errors.Is(err, ErrPasswordNeeded) && sudoMayAsk:
		a.Why = fmt.Sprintf("load the firewall of network %s again, since only root can check it", want.Network)
	case state == Unknown:
		return nil, err
	case f.Manifest.Value == nil:
		a.Why = fmt.Sprintf("block the guests of network %s from this machine and its networks (firewall)", want.Network)
		a.Consent = plan.Ask
	default:
		a.Why = fmt.Sprintf("reload the firewall of network %s: %s", want.Network, why)
	}
	return []plan.Action{a}, nil
}

// PlanRemoval removes the rules, if there are any.
func PlanRemoval(f Facts, want wall.Wall) []plan.Action {
	if f.Manifest.Err == nil && f.Manifest.Value == nil {
		return nil
	}
	op := root.Nft{Wall: want, Remove: true}
	return []plan.Action{{
		ID: "firewall.remove:" + want.Network, Why: fmt.Sprintf("remove the firewall of network %s: its guests can then reach this machine and its networks", want.Network),
		Shows: op.Shows(), Root: op, Consent: plan.Ask, Timing: "define",
	}}
}

// hookPrerouting and hookIngress are the kernel's NF_INET_PRE_ROUTING and NF_NETDEV_INGRESS.
const hookPrerouting, hookIngress = 0, 0

// Bypasses names flow tables and chains of other programs through which packets bypass aivm's
// rules.
func Bypasses(c nftread.Content, bridge string) []string {
	var out []string
	for _, f := range c.Flowtables {
		if slices.Contains(f.Devices, bridge) {
			out = append(out, fmt.Sprintf("flow table %s of table %s bypasses the rules (device %s)", f.Name, f.Table, bridge))
		}
	}
	for _, ch := range c.Chains {
		switch {
		case ch.Family == "netdev" && ch.Hook == hookIngress && ch.Device == bridge:
			out = append(out, fmt.Sprintf("chain %s of table netdev %s processes packets of %s before the rules", ch.Name, ch.Table, bridge))
		case ch.Type == "nat" && ch.Hook == hookPrerouting && ch.Priority <= wall.BeforeNAT && ch.Family != "bridge":
			out = append(out, fmt.Sprintf("chain %s of table %s %s changes destinations before the rules (priority %d)", ch.Name, ch.Family, ch.Table, ch.Priority))
		}
	}
	return out
}
