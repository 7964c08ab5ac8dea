// Package firewall owns the nftables rules that keep a guest away from this
// machine and its networks: what the config asks for, how what the kernel
// holds compares with it, and what has to be done.
//
// It reads the manifest the privileged helper wrote and what the kernel holds;
// only root.Nft changes anything. Invariants: rules are compared by content,
// never by a mark on them; what could not be read is unknown, and unknown
// stops; nobody else's tables are touched, and what in them stands in our way
// is named.
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

// Facts are what was seen of one network's rules.
type Facts struct {
	Manifest plan.Known[*root.NetManifest] // nil: none, never put up
	Kernel   plan.Known[nftread.Content]   // read only if there is a manifest
	Local    plan.Known[[]netip.Prefix]    // subnets this machine is connected to now
}

// ErrAsks: only sudo can read the kernel's rules, and it would ask for a
// password.
var ErrAsks = errors.New("sudo would ask for a password")

// Want is the wall the config asks for, for these guests.
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
	// A map is walked in any order; the record is the same every time.
	slices.SortFunc(w.Ports, func(a, b wall.Ports) int { return strings.Compare(a.Proto+a.String(), b.Proto+b.String()) })
	for _, s := range fw.AllowLAN {
		e, err := wall.ParseEndpoint(s)
		if err != nil {
			return w, bad("allow_lan", err)
		}
		w.LAN = append(w.LAN, e)
	}
	if err := w.Check(); err != nil {
		return w, bad("it has an unusable value", err)
	}
	return w, nil
}

// State is how the rules in the kernel compare with what is wanted.
type State string

// The states of a wall.
const (
	InPlace State = "in place"
	Missing State = "missing" // never put up, or flushed
	Altered State = "altered" // by somebody else
	Older   State = "older"   // as they were put up, but something else is wanted now
	Unknown State = "unknown"
)

// Compare says how the rules are, and why it says so.
func Compare(f Facts, want wall.Wall) (State, string, error) {
	switch {
	case f.Manifest.Err != nil:
		return Unknown, "", f.Manifest.Err
	case f.Manifest.Value == nil:
		return Missing, "they were never put up", nil
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
		return Altered, "somebody changed them", nil
	case m.Script != wall.Digest(want, f.Local.Value):
		return Older, "the config, the VMs, this machine's networks or aivm changed", nil
	}
	return InPlace, "", nil
}

// ID is the id of the action that puts a network's rules in place.
func ID(network string) string { return "firewall.rules:" + network }

// Plan puts the rules in place if they are not. Rules that were approved
// before come back without a question. sudoMayAsk says that there is somebody
// to type a password: rules that only root can read are then loaded anew,
// which compares and mends in one.
func Plan(f Facts, want wall.Wall, sudoMayAsk bool) ([]plan.Action, error) {
	state, why, err := Compare(f, want)
	if state == InPlace {
		return nil, nil
	}
	op := root.Nft{Wall: want}
	a := plan.Action{ID: ID(want.Network), Shows: op.Shows(), Root: op, Timing: "define"}
	switch {
	case state == Unknown && errors.Is(err, ErrAsks) && sudoMayAsk:
		a.Why = fmt.Sprintf("load the firewall of network %s anew, which only root can look at", want.Network)
	case state == Unknown:
		return nil, err
	case f.Manifest.Value == nil:
		a.Why = fmt.Sprintf("keep the guests of network %s away from this machine and its networks (firewall)", want.Network)
		a.Consent = plan.Ask
	default:
		a.Why = fmt.Sprintf("put the firewall of network %s back in place: %s", want.Network, why)
	}
	return []plan.Action{a}, nil
}

// PlanRemoval takes the rules away, if there are any.
func PlanRemoval(f Facts, want wall.Wall) []plan.Action {
	if f.Manifest.Err == nil && f.Manifest.Value == nil {
		return nil
	}
	op := root.Nft{Wall: want, Remove: true}
	return []plan.Action{{
		ID: "firewall.remove:" + want.Network, Why: fmt.Sprintf("take the firewall of network %s away: its guests then reach this machine and its networks", want.Network),
		Shows: op.Shows(), Root: op, Consent: plan.Ask, Timing: "define",
	}}
}

// hookPrerouting and hookIngress are NF_INET_PRE_ROUTING, and NF_NETDEV_INGRESS.
const hookPrerouting, hookIngress = 0, 0

// InTheWay names what other tables hold that takes packets past our rules.
func InTheWay(c nftread.Content, bridge string) []string {
	var out []string
	for _, f := range c.Flowtables {
		if slices.Contains(f.Devices, bridge) {
			out = append(out, fmt.Sprintf("flow table %s of table %s forwards past the rules (device %s)", f.Name, f.Table, bridge))
		}
	}
	for _, ch := range c.Chains {
		switch {
		case ch.Family == "netdev" && ch.Hook == hookIngress && ch.Device == bridge:
			out = append(out, fmt.Sprintf("chain %s of table netdev %s takes packets of %s before the rules see them", ch.Name, ch.Table, bridge))
		case ch.Type == "nat" && ch.Hook == hookPrerouting && ch.Priority <= wall.BeforeNAT && ch.Family != "bridge":
			out = append(out, fmt.Sprintf("chain %s of table %s %s changes destinations before the rules see them (priority %d)", ch.Name, ch.Family, ch.Table, ch.Priority))
		}
	}
	return out
}
