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

// Destroy takes a network away: libvirt's, its firewall, its record. One
// that VMs use stays, unless force is given; then its record stays with them,
// and the next start of one of them makes it again.
func (e Part) Destroy(ctx context.Context, name string, force bool) (NetworkResult, error) {
	_, err := e.Bring(ctx, loop.Job{Plan: func(ctx context.Context) (plan.Plan, error) { return e.planDestroy(ctx, name, force) }})
	return NetworkResult{Schema: 1, Network: name, State: "missing"}, err
}

func (e Part) planDestroy(ctx context.Context, name string, force bool) (plan.Plan, error) {
	p := plan.Plan{Stage: plan.Host}
	store, err := e.Load()
	if err != nil {
		return p, err
	}
	n, ok := store.Config.FindNetwork(name)
	if !ok {
		return p, ui.Refused("Network not found in config store: %s", name).Hint(ui.Cmd("aivm list"))
	}
	users := store.Config.NetworkUsers(n.Name)
	if len(users) > 0 && !force {
		return p, ui.Refused("Network '%s' is referenced by managed VMs: %s", n.Name, strings.Join(users, ", ")).
			Hint(ui.CmdFor("give the VMs up first", "aivm vm delete NAME"), ui.CmdFor("or cut them off until they are started anew", ui.AddFlag(e.Rerun, "--force")))
	}
	l, err := e.LibvirtWithHelp(ctx)
	if err != nil {
		return p, err
	}
	k, err := l.Network(ctx, n.Network.Name)
	switch {
	case errors.Is(err, virt.ErrNotFound):
	case err != nil:
		return p, err
	case !k.Mark.By(e.UID):
		return p, ui.Refused("network %q was not made by aivm for this user", n.Network.Name).Hint(ui.Cmd(virt.Virsh("net-dumpxml ") + n.Network.Name))
	default:
		p.Add(plan.Action{
			ID: "network.remove:" + n.Name, Why: "stop the network " + n.Name + " and forget its definition", Consent: plan.Ask,
			Shows: []string{"virsh net-destroy " + n.Network.Name, "virsh net-undefine " + n.Network.Name},
			Do:    func(ctx context.Context) error { return l.RemoveNetwork(ctx, n.Network.Name) },
		})
	}
	rules := e.Wall.Rules(ctx, n.Network.Name, false)
	if want, err := firewall.Want(n.Firewall, n.Network, nil); err == nil {
		p.Add(firewall.PlanRemoval(rules, want)...)
	}
	if len(users) == 0 {
		p.Add(plan.Action{
			ID: "store.network:" + n.Name, Why: "remove its record from the config", Shows: []string{"write " + e.StorePath}, Consent: plan.Ask,
			Do: func(ctx context.Context) error {
				return config.Update(ctx, e.StorePath, func(c *config.Config) error { c.RemoveNetwork(name); return nil })
			},
		})
	}
	return p, nil
}
