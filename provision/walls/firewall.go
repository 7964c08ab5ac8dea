package walls

import (
	"context"
	"errors"
	"slices"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/internal/wall"
	"aivm.dev/aivm/provision/firewall"
	"aivm.dev/aivm/provision/loop"
)

// Result is what the commands of `host fw` print with --json.
type Result struct {
	Schema   int             `json:"schema"`
	Networks []ResultNetwork `json:"networks"`
}

// ResultNetwork is one network of a Result.
type ResultNetwork struct {
	Network  string   `json:"network"`
	Enabled  bool     `json:"enabled"`
	State    string   `json:"state"`
	Why      string   `json:"why,omitempty"`
	Tables   []string `json:"tables"`
	Sentence string   `json:"sentence"`
	InTheWay []string `json:"in_the_way"`
}

// networksNamed returns the networks a command of `host fw` is about: the one named, or all.
func (e Part) networksNamed(name string) ([]config.Network, error) {
	store, err := e.Load()
	if err != nil {
		return nil, err
	}
	if name == "" {
		if len(store.Config.Networks) == 0 {
			return nil, ui.Refused("there is no network yet").Hint(ui.Cmd("aivm code ."))
		}
		return store.Config.Networks, nil
	}
	n, ok := store.Config.FindNetwork(name)
	if !ok {
		return nil, ui.Refused("Network not found in config store: %s", name).Hint(ui.Cmd("aivm list"))
	}
	return []config.Network{*n}, nil
}

// Status reads the state of the rules of a network, or of all.
func (e Part) Status(ctx context.Context, name string, sudo bool) (Result, error) {
	out := Result{Schema: 1, Networks: []ResultNetwork{}}
	ns, err := e.networksNamed(name)
	if err != nil {
		return out, err
	}
	for _, n := range ns {
		rules := e.Firewall.Rules(ctx, n.Network.Name, sudo)
		want, state, why, err := compare(n, rules)
		k := ResultNetwork{Network: n.Name, Enabled: n.Firewall.Enabled, State: string(state), Why: why, Tables: want.Tables(), InTheWay: []string{}}
		if err != nil {
			k.Why = err.Error()
		}
		if !n.Firewall.Enabled {
			k.State = off
		}
		k.Sentence = "A guest of network " + n.Name + " " + AccessSentence(n, &rules) + "."
		k.InTheWay = append(k.InTheWay, firewall.Bypasses(rules.Kernel.Value, n.Network.Bridge)...)
		for _, c := range e.cutOffs(ctx, want, sudo) {
			k.InTheWay = append(k.InTheWay, c.String())
		}
		out.Networks = append(out.Networks, k)
	}
	stale := e.staleFirewallsNow(ctx)
	for _, m := range stale.Value {
		if name != "" && m.Wall.Network != name {
			continue
		}
		out.Networks = slices.DeleteFunc(out.Networks, func(k ResultNetwork) bool { return k.Network == m.Wall.Network })
		out.Networks = append(out.Networks, ResultNetwork{
			Network: m.Wall.Network, State: "left over", Why: "libvirt no longer has this network; to remove its firewall: aivm host fw apply",
			Tables: m.Wall.Tables(), Sentence: "It has no guest.", InTheWay: []string{},
		})
	}
	if errors.Is(stale.Err, errNotAsked) {
		return out, nil // only the networks of the config are known
	}
	return out, stale.Err
}

// ApplyRules loads the rules of a network, or of all.
func (e Part) ApplyRules(ctx context.Context, name string) (Result, error) {
	var scripts []string
	_, err := e.RunJob(ctx, loop.Job{
		Plan: func(ctx context.Context) (p plan.Plan, err error) {
			facts, err := e.observeApply(ctx, name)
			if err == nil {
				p, scripts, err = e.planApply(facts)
			}
			return p, err
		},
		Dry: func(p plan.Plan) error {
			d := e.Dry("fw apply", "", p)
			d.Rules = scripts
			return d
		},
	})
	if err != nil {
		return Result{}, err
	}
	return e.result(ctx, name)
}

// applyFacts are the facts that the plan of `host fw apply` depends on.
type applyFacts struct {
	stale    []root.NetManifest // of networks that libvirt no longer has
	networks []config.Network
	rules    []*loop.WallFacts // of each of them
	hooks    plan.Known[loop.Hooks]
}

// observeApply reads the rules of a network, or of all, and the stale firewalls.
func (e Part) observeApply(ctx context.Context, name string) (l applyFacts, err error) {
	ns, err := e.networksNamed(name)
	if err != nil {
		return l, err
	}
	conn, err := e.LibvirtWithHelp(ctx)
	if err != nil {
		return l, err
	}
	have, err := conn.Networks(ctx)
	if err != nil {
		return l, err
	}
	if l.stale, err = e.StaleFirewalls(have); err != nil {
		return l, err
	}
	if name != "" {
		l.stale = slices.DeleteFunc(l.stale, func(m root.NetManifest) bool { return m.Wall.Network != name })
	}
	for _, n := range ns {
		if !slices.ContainsFunc(have, func(k *virt.Network) bool { return k.Name == n.Network.Name }) {
			if name != "" && len(l.stale) == 0 {
				return l, ui.Refused("network %q does not exist yet; its firewall is created with it", n.Name).Hint(ui.Cmd("aivm host net create " + n.Name))
			}
			continue
		}
		if !n.Firewall.Enabled {
			if name != "" {
				return l, ui.Refused("the firewall of network %q is switched off in the config", n.Name).Hint(ui.CmdFor("set enabled = true in its [networks.firewall]", "aivm config edit"))
			}
			continue
		}
		rules := e.RulesOf(ctx, n.Network.Name, true)
		if rules.Guests.Value, err = e.guests(ctx, n); err != nil {
			return l, err
		}
		l.networks, l.rules = append(l.networks, n), append(l.rules, rules)
	}
	l.hooks.Value.Current, l.hooks.Value.Known, l.hooks.Err = e.Firewall.Hooks()
	return l, nil
}

// planApply plans to load the missing rules and to remove stale firewalls. scripts are the
// complete nftables scripts that would be loaded.
func (e Part) planApply(l applyFacts) (p plan.Plan, scripts []string, err error) {
	p.Stage = plan.Host
	p.Add(PlanRemoveStale(l.stale)...)
	for i, n := range l.networks {
		f := &loop.Facts{Wall: l.rules[i]}
		rules, err := e.Plan(n, f, f.Wall.Guests.Value)
		if err != nil {
			return p, nil, err
		}
		p.Join(rules)
		scripts = append(scripts, ruleScripts(rules.Actions, f)...)
	}
	hooks, err := PlanHooks(l.hooks)
	if err != nil {
		return p, nil, err
	}
	if len(p.Actions) > len(l.stale) {
		p.Actions = append(hooks, p.Actions...)
	}
	return p, scripts, nil
}

// ruleScripts returns the nftables scripts that actions load.
func ruleScripts(as []plan.Action, f *loop.Facts) []string {
	var out []string
	for _, a := range as {
		if op, ok := a.Root.(root.Nft); ok && !op.Remove {
			out = append(out, wall.Script(op.Wall, f.Wall.Rules.Local.Value))
		}
	}
	return out
}

// guests returns the VMs for which libvirt reserves an address in a network; the rules must
// have all of them.
func (e Part) guests(ctx context.Context, n config.Network) ([]wall.Guest, error) {
	l, err := e.LibvirtWithHelp(ctx)
	if err != nil {
		return nil, err
	}
	k, err := l.Network(ctx, n.Network.Name)
	if errors.Is(err, virt.ErrNotFound) {
		return []wall.Guest{}, nil
	}
	if err != nil {
		return nil, err
	}
	if !k.Mark.By(e.UID) {
		return nil, ui.Refused("network %q was not made by aivm for this user", n.Name).Hint(ui.Cmd(e.Virsh("net-dumpxml ") + n.Network.Name))
	}
	w := wall.Wall{Guests: []wall.Guest{}}
	for _, h := range k.Hosts {
		w = w.With(h.MAC, h.IP)
	}
	return w.Guests, nil
}

// RemoveRules removes the rules of a network, or of all.
func (e Part) RemoveRules(ctx context.Context, name string) (Result, error) {
	_, err := e.RunJob(ctx, loop.Job{Plan: func(ctx context.Context) (plan.Plan, error) {
		p := plan.Plan{Stage: plan.Host}
		ns, err := e.networksNamed(name)
		if err != nil {
			return p, err
		}
		for _, n := range ns {
			rules := e.Firewall.Rules(ctx, n.Network.Name, true)
			want, err := firewall.Want(n.Firewall, n.Network, nil)
			if err != nil {
				return p, err
			}
			p.Add(firewall.PlanRemoval(rules, want)...)
		}
		return p, nil
	}})
	if err != nil {
		return Result{}, err
	}
	return e.result(ctx, name)
}

// result reads the state of the rules after they were changed; it is empty without --json.
func (e Part) result(ctx context.Context, name string) (Result, error) {
	if !e.JSON {
		return Result{}, nil
	}
	return e.Status(ctx, name, true)
}
