package walls

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/internal/wall"
	"aivm.dev/aivm/provision/firewall"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/target"
)

// ObserveRules reads the rules of the VM's network; nil if the network does not exist yet or
// the command does not use it.
func (e Part) ObserveRules(ctx context.Context, w *target.Target) *loop.WallFacts {
	if w.NewNet || e.NoFirewall || !w.Boot && !w.Guest {
		return nil
	}
	return e.RulesOf(ctx, w.Network.Network.Name, !w.NoSudo)
}

// RulesOf reads the rules of a network, and, if sudo would ask for a password, the command
// that allows reading them without one.
func (e Part) RulesOf(ctx context.Context, network string, sudo bool) *loop.WallFacts {
	f := &loop.WallFacts{Network: network, Rules: e.Firewall.Rules(ctx, network, sudo)}
	if errors.Is(f.Rules.Kernel.Err, firewall.ErrPasswordNeeded) {
		f.Allow = e.allow(network)
		_, err := os.Stat(e.State().OfferedPath(network))
		f.Offered = !errors.Is(err, fs.ErrNotExist)
	}
	return f
}

// ObserveForStart reads into f what the start of a network depends on: its rules and
// libvirt's hooks. The network may be another one than f had before.
func (e Part) ObserveForStart(ctx context.Context, network string, f *loop.Facts) {
	e.observeRules(ctx, network, f)
	e.observeHooks(f)
}

// observeRules reads the rules of a network into f, unless f has them.
func (e Part) observeRules(ctx context.Context, network string, f *loop.Facts) {
	if f.Wall != nil && f.Wall.Network == network {
		return
	}
	if e.NoFirewall {
		f.Wall = &loop.WallFacts{Network: network}
		return
	}
	f.Wall = e.RulesOf(ctx, network, true)
}

func (e Part) observeHooks(f *loop.Facts) {
	h := &f.Wall.Hooks
	h.Value.Current, h.Value.Known, h.Err = e.Firewall.Hooks()
}

// ObserveForUse reads into f what using a running VM depends on: the rules of its network and,
// if some are missing, libvirt's hooks.
func (e Part) ObserveForUse(ctx context.Context, n config.Network, f *loop.Facts) {
	e.observeRules(ctx, n.Network.Name, f)
	f.Wall.Guests.Value, f.Wall.Guests.Err = e.guestsToAdd(ctx, n, f)
	if f.Wall.Guests.Err != nil {
		return
	}
	if p, err := e.Plan(n, f, f.Wall.Guests.Value); err == nil && !p.Empty() {
		e.observeHooks(f)
	}
}

// guestsToAdd returns the guests that the rules must allow if there is no manifest; nil if there
// is one, since it has the guests. Without a manifest libvirt's reservations are used: other
// VMs may run in this network, and loading rules for this VM must not cut them off.
func (e Part) guestsToAdd(ctx context.Context, n config.Network, f *loop.Facts) ([]wall.Guest, error) {
	if e.NoFirewall || !n.Firewall.Enabled {
		return nil, nil
	}
	if m := f.Wall.Rules.Manifest; m.Err != nil || m.Value != nil {
		return nil, nil
	}
	guests, err := e.guests(ctx, n)
	if err != nil || f.Inst == nil {
		return guests, err
	}
	if ip, err := netip.ParseAddr(f.Inst.Address); err == nil {
		guests = wall.Wall{Guests: guests}.With(f.Inst.MAC, ip).Guests
	}
	return guests, nil
}

// Plan plans to load the rules of the network before a guest in it is used or started.
// guests are those that have an address in it; nil means those in the manifest, and this
// one. f.Wall must have the rules of this network.
func (e Part) Plan(n config.Network, f *loop.Facts, guests []wall.Guest) (plan.Plan, error) {
	p := plan.Plan{Stage: plan.Host}
	fw, spec := n.Firewall, n.Network
	if e.NoFirewall {
		p.Warn(fmt.Sprintf("the firewall of network %s is not checked, this once (--no-firewall)", spec.Name))
		return p, nil
	}
	rules := f.Wall.Rules
	want, err := firewall.Want(fw, spec, guests)
	if err != nil {
		return p, err
	}
	if !fw.Enabled {
		p.Add(firewall.PlanRemoval(rules, want)...)
		e.offerReading(&p, f.Wall)
		return p, nil
	}
	if guests == nil && rules.Manifest.Err == nil && rules.Manifest.Value != nil {
		want.Guests = rules.Manifest.Value.Wall.Guests
	}
	if guests != nil && rules.Manifest.Err == nil && rules.Manifest.Value != nil {
		want = want.PortsOf(rules.Manifest.Value.Wall)
	}
	if guests == nil && f.Inst != nil {
		if ip, err := netip.ParseAddr(f.Inst.Address); err == nil {
			want = want.With(f.Inst.MAC, ip)
		}
	}
	as, err := firewall.Plan(rules, want, e.InTTY)
	if err != nil {
		return p, e.unreadableRules(f.Wall, err)
	}
	if p.Add(as...); !p.Empty() {
		warnOfPorts(&p, fw)
	}
	for _, s := range firewall.Bypasses(rules.Kernel.Value, spec.Bridge) {
		p.Warn(s)
	}
	e.offerReading(&p, f.Wall)
	return p, nil
}

// PlanUse works like Plan for a running VM; f has what ObserveForUse has read.
func (e Part) PlanUse(n config.Network, f *loop.Facts) (plan.Plan, error) {
	none := plan.Plan{Stage: plan.Host}
	if f.Wall.Guests.Err != nil {
		return none, f.Wall.Guests.Err
	}
	p, err := e.Plan(n, f, f.Wall.Guests.Value)
	if err != nil || p.Empty() {
		return p, err
	}
	// A login made while the rules were missing may be blocked by them: observing again
	// makes a new one.
	p.Actions[len(p.Actions)-1].Again = true
	hooks, err := PlanHooks(f.Wall.Hooks)
	p.Actions = append(hooks, p.Actions...)
	return p, err
}

// offerReading adds a note, once for each network, that names the line of sudoers by which
// reading the rules needs no password. It does so only when rules are loaded.
func (e Part) offerReading(p *plan.Plan, f *loop.WallFacts) {
	if p.Empty() || f.Offered || f.Allow == "" || e.DryRun {
		return
	}
	mark := e.State().OfferedPath(f.Network)
	p.Notes = append(p.Notes, plan.Note{
		Text: "only root can read the firewall's rules; to avoid the password prompt, allow just that: " + f.Allow, Warn: true,
		OnPrint: func() {
			if os.MkdirAll(filepath.Dir(mark), 0o700) == nil {
				_ = os.WriteFile(mark, nil, 0o600) // if that fails, the note appears again
			}
		},
	})
}

// PlanForget plans to remove a deleted VM from the rules of its network. It uses only the
// manifest, which everybody may read.
func PlanForget(rules firewall.Facts, network, mac, vm string) []plan.Action {
	m := rules.Manifest
	if m.Err != nil || m.Value == nil {
		return nil
	}
	without := m.Value.Wall.Without(mac)
	if without.Same(m.Value.Wall) {
		return nil
	}
	op := root.Nft{Wall: without, IfUp: true}
	return []plan.Action{{
		ID: firewall.ID(network), Why: fmt.Sprintf("remove %s from the firewall of network %s", vm, network),
		Shows: op.Shows(), Root: op, Consent: plan.Typed,
	}}
}

// GuestsOf returns the MAC and IP addresses that libvirt reserves for the VMs of a network,
// and this one.
func GuestsOf(n *virt.Network, mac string, ip netip.Addr) []wall.Guest {
	var w wall.Wall
	if n != nil {
		for _, h := range n.Hosts {
			w = w.With(h.MAC, h.IP)
		}
	}
	return w.With(mac, ip).Guests
}

// BeforeStart inserts the actions for the rules before the start of the network, so that no
// guest is ever on it without them.
func BeforeStart(network string, nas, rules []plan.Action) []plan.Action {
	for i, a := range nas {
		if a.ID == "network.start:"+network {
			return append(append(append([]plan.Action{}, nas[:i]...), rules...), nas[i:]...)
		}
	}
	return append(nas, rules...)
}

// warnOfPorts warns users of aivm 0.3 that allowed ports no longer open ports on the LAN.
func warnOfPorts(p *plan.Plan, fw config.Firewall) {
	ports := append(append([]string{}, fw.AllowTCPPorts...), fw.AllowUDPPorts...)
	if len(ports) > 0 && len(fw.AllowLAN) == 0 {
		p.Warn(fmt.Sprintf("allowed ports (%s) are open on this machine only, while aivm 0.3 opened them on the entire LAN; for a service on the LAN set allow_lan = [\"ADDRESS:PORT\"]", strings.Join(ports, ", ")))
	}
}

// PlanHooks plans to install libvirt's hooks. They load the rules of a network and mount the
// folders of a VM whenever libvirt starts it, and prevent the start if that fails. An old
// copy of aivm in the hooks is replaced without asking.
func PlanHooks(h plan.Known[loop.Hooks]) ([]plan.Action, error) {
	if h.Err != nil {
		return nil, ui.Failed("libvirt's hooks cannot be read: %w", h.Err).Hint(ui.Cmd("ls -l /etc/libvirt/hooks/network.d " + root.HookProgram))
	}
	if h.Value.Current {
		return nil, nil
	}
	op := root.Hooks{}
	a := plan.Action{
		ID: "host.hooks", Why: "install libvirt hooks that load the firewall rules and mount the folders when a network or VM starts",
		Shows: op.Shows(), Consent: plan.Ask, Root: op, Timing: "host",
	}
	if h.Value.Known {
		a.Why, a.Consent = "update the copy of aivm that libvirt's hooks run", plan.None
	}
	return []plan.Action{a}, nil
}
