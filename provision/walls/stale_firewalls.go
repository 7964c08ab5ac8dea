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

// Left are the walls of this user's that are kept for networks libvirt
// does not have any more: virsh took them away. The hook takes one away when
// somebody else's network gets the name; these are all the others.
//
// What a socket of a person's choice leads to is no judge of what is over: root
// keeps walls for the networks of the system's libvirt.
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

// staleFirewallsNow are the walls that are left over, unknown where libvirt cannot be asked
// without help: looking asks root for nothing.
func (e Part) staleFirewallsNow(ctx context.Context) plan.Known[[]root.NetManifest] {
	l, err := e.Libvirt(ctx)
	if err != nil {
		return plan.Unknown[[]root.NetManifest](fmt.Errorf("%w: %w", errNotAsked, err))
	}
	have, err := l.Networks(ctx)
	if err != nil {
		return plan.Unknown[[]root.NetManifest](err)
	}
	left, err := e.StaleFirewalls(have)
	return plan.Known[[]root.NetManifest]{Value: left, Err: err}
}

// errNotAsked: libvirt cannot be asked by this user, now.
var errNotAsked = errors.New("libvirt was not asked for its networks")

// PlanRemoveStale takes them away. They keep nobody away from anything, so nobody
// is asked.
func PlanRemoveStale(left []root.NetManifest) []plan.Action {
	var out []plan.Action
	for _, m := range left {
		op := root.Nft{Wall: m.Wall, Remove: true}
		out = append(out, plan.Action{
			ID: "firewall.forget:" + m.Wall.Network, Why: fmt.Sprintf("forget the firewall of network %s, which libvirt does not have any more", m.Wall.Network),
			Shows: op.Shows(), Root: op, Consent: plan.None,
		})
	}
	return out
}
