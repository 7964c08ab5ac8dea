package walls

import (
	"context"
	"errors"
	"strings"

	"aivm.dev/aivm/provision/loop"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/firewall"
)

// NetworkResult is what `host net destroy` prints with --json.
type NetworkResult struct {
	Schema  int    `json:"schema"`
	Network string `json:"network"`
	State   string `json:"state"`
}

// Destroy removes a network: libvirt's network, its firewall and its record. It refuses if
// VMs use the network, unless force is given; then the record stays, and the next start of
// one of these VMs creates the network again.
func (e Part) Destroy(ctx context.Context, name string, force bool) (NetworkResult, error) {
	_, err := e.RunJob(ctx, loop.Job{Plan: func(ctx context.Context) (plan.Plan, error) {
		n, err := e.observeDestroy(ctx, name, force)
		if err != nil {
			return plan.Plan{}, err
		}
		return e.planDestroy(n), nil
	}})
	return NetworkResult{Schema: 1, Network: name, State: "missing"}, err
}

// removal is a network that is to be removed.
type removal struct {
	config.Network
	users []string       // VMs of the config that use it
	conn  *virt.Conn     // nil: libvirt does not have it
	rules firewall.Facts // its firewall rules
}

func (e Part) observeDestroy(ctx context.Context, name string, force bool) (u removal, err error) {
	store, err := e.Load()
	if err != nil {
		return u, err
	}
	n, ok := store.Config.FindNetwork(name)
	if !ok {
		return u, ui.Refused("Network not found in config store: %s", name).Hint(ui.Cmd("aivm list"))
	}
	u.Network = *n
	u.users = store.Config.NetworkUsers(n.Name)
	if len(u.users) > 0 && !force {
		return u, ui.Refused("Network '%s' is referenced by managed VMs: %s", n.Name, strings.Join(u.users, ", ")).
			Hint(ui.CmdFor("delete the VMs first", "aivm vm delete NAME"), ui.CmdFor("or remove it and cut them off until their next start", ui.AddFlag(e.Rerun, "--force")))
	}
	l, err := e.LibvirtWithHelp(ctx)
	if err != nil {
		return u, err
	}
	k, err := l.Network(ctx, n.Network.Name)
	switch {
	case errors.Is(err, virt.ErrNotFound):
	case err != nil:
		return u, err
	case !k.Mark.By(e.UID):
		return u, ui.Refused("network %q was not made by aivm for this user", n.Network.Name).Hint(ui.Cmd(e.Virsh("net-dumpxml ") + n.Network.Name))
	default:
		u.conn = l
	}
	u.rules = e.Firewall.Rules(ctx, n.Network.Name, false)
	return u, nil
}

func (e Part) planDestroy(n removal) plan.Plan {
	p := plan.Plan{Stage: plan.Host}
	network := n.Network.Network
	if n.conn != nil {
		p.Add(plan.Action{
			ID: "network.remove:" + n.Name, Why: "stop network " + n.Name + " and remove its definition", Consent: plan.Ask,
			Shows: []string{"virsh net-destroy " + network.Name, "virsh net-undefine " + network.Name},
			Do:    func(ctx context.Context) error { return n.conn.RemoveNetwork(ctx, network.Name) },
		})
	}
	if want, err := firewall.Want(n.Firewall, network, nil); err == nil {
		p.Add(firewall.PlanRemoval(n.rules, want)...)
	}
	if len(n.users) == 0 {
		p.Add(plan.Action{
			ID: "store.network:" + n.Name, Why: "remove network " + n.Name + " from the config", Shows: []string{"write " + e.StorePath}, Consent: plan.Ask,
			Do: func(ctx context.Context) error {
				return config.Update(ctx, e.StorePath, func(c *config.Config) error { c.RemoveNetwork(n.Name); return nil })
			},
		})
	}
	return p
}
