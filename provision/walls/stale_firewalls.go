package walls

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/virt"
)

// StaleFirewalls returns the firewalls of this user that root keeps for networks libvirt no
// longer has, because they were removed with virsh. (The hook itself removes a firewall when
// another network gets its name.)
//
// If the user has chosen another libvirt socket it returns none: root keeps firewalls for the
// networks of the system's libvirt only.
func (e Part) StaleFirewalls(networks []*virt.Network) ([]root.NetManifest, error) {
	if e.URI().Own() {
		return nil, nil
	}
	all, err := e.Firewall.Manifests()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(m root.NetManifest) bool {
		return m.Owner != e.UID || slices.ContainsFunc(networks, func(n *virt.Network) bool {
			return n.Name == m.Wall.Network && (n.UUID == m.UUID || n.Mark.By(e.UID))
		})
	}), nil
}

// staleFirewallsNow returns the stale firewalls; unknown if libvirt refuses this user, since
// a command that only reads does not use root.
func (e Part) staleFirewallsNow(ctx context.Context) plan.Known[[]root.NetManifest] {
	l, err := e.Libvirt(ctx)
	if err != nil {
		return plan.Unknown[[]root.NetManifest](fmt.Errorf("%w: %w", errNotAsked, err))
	}
	have, err := l.Networks(ctx)
	if err != nil {
		return plan.Unknown[[]root.NetManifest](err)
	}
	stale, err := e.StaleFirewalls(have)
	return plan.Known[[]root.NetManifest]{Value: stale, Err: err}
}

// errNotAsked is wrapped if this user cannot ask libvirt without root's help.
var errNotAsked = errors.New("libvirt was not asked for its networks")

// PlanRemoveStale plans to remove stale firewalls. It needs no consent: no guest is behind
// them.
func PlanRemoveStale(stale []root.NetManifest) []plan.Action {
	var out []plan.Action
	for _, m := range stale {
		op := root.Nft{Wall: m.Wall, Remove: true}
		out = append(out, plan.Action{
			ID: "firewall.forget:" + m.Wall.Network, Why: fmt.Sprintf("remove the stale firewall of network %s, which libvirt no longer has", m.Wall.Network),
			Shows: op.Shows(), Root: op, Consent: plan.None,
		})
	}
	return out
}
