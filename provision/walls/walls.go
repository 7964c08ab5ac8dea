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

// ObserveRules reads the rules of the VM's network, as far as it has one yet.
func (e Part) ObserveRules(ctx context.Context, w *target.Target) *loop.WallFacts {
	if w.NewNet || e.NoFirewall || !w.Boot && !w.Guest {
		return nil
	}
	return e.RulesOf(ctx, w.Network.Network.Name, !w.NoSudo)
}

// RulesOf reads the rules of a network.
func (e Part) RulesOf(ctx context.Context, network string, sudo bool) *loop.WallFacts {
	f := &loop.WallFacts{Network: network, Rules: e.Firewall.Rules(ctx, network, sudo)}
	if errors.Is(f.Rules.Kernel.Err, firewall.ErrPasswordNeeded) {
		f.Allow = e.allow(network)
		_, err := os.Stat(e.State().OfferedPath(network))
		f.Offered = !errors.Is(err, fs.ErrNotExist)
	}
	return f
}

// ObserveForStart has f hold what the start of a network hangs on, which may be another
// one than that of the last look: its rules, and libvirt's hooks.
func (e Part) ObserveForStart(ctx context.Context, network string, f *loop.Facts) {
	e.observeRules(ctx, network, f)
	e.observeHooks(f)
}

// see has f hold the rules of a network.
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

// ObserveForUse has f hold what the use of a VM that runs already hangs on: the rules of
// its network and, where some are missing, libvirt's hooks.
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

// known are the guests that rules have to let through beside those they know: nil
// if they know some. Rules that were taken away know nobody, and libvirt does:
// others may run on this network, and must not be cut off by what is for this VM.
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

// Plan puts the rules of the network in place before a guest behind them is used,
// or started. guests are those that have an address in it; nil: those the rules
// know already, and this one. The rules were read: f.Wall is about this network.
func (e Part) Plan(n config.Network, f *loop.Facts, guests []wall.Guest) (plan.Plan, error) {
	p := plan.Plan{Stage: plan.Host}
	fw, spec := n.Firewall, n.Network
	if e.NoFirewall {
		p.Warn(fmt.Sprintf("the firewall of network %s is not looked at, this once", spec.Name))
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

// PlanUse is Plan for a VM that runs already; f holds what ObserveForUse has read.
func (e Part) PlanUse(n config.Network, f *loop.Facts) (plan.Plan, error) {
	none := plan.Plan{Stage: plan.Host}
	if f.Wall.Guests.Err != nil {
		return none, f.Wall.Guests.Err
	}
	p, err := e.Plan(n, f, f.Wall.Guests.Value)
	if err != nil || p.Empty() {
		return p, err
	}
	// A login made while the rules were gone is one they do not know: the next
	// look makes a new one.
	p.Actions[len(p.Actions)-1].Again = true
	hooks, err := PlanHooks(f.Wall.Hooks)
	p.Actions = append(hooks, p.Actions...)
	return p, err
}

// offerReading names the line of sudoers that saves the password, once for each
// network, if rules are put up that only root can read.
func (e Part) offerReading(p *plan.Plan, f *loop.WallFacts) {
	if p.Empty() || f.Offered || f.Allow == "" || e.DryRun {
		return
	}
	mark := e.State().OfferedPath(f.Network)
	p.Notes = append(p.Notes, plan.Note{
		Text: "only root can look at the firewall. To be asked for no password because of that, allow just this reading: " + f.Allow, Warn: true,
		OnPrint: func() {
			if os.MkdirAll(filepath.Dir(mark), 0o700) == nil {
				_ = os.WriteFile(mark, nil, 0o600) // else it is offered again
			}
		},
	})
}

// PlanForget takes a VM that is deleted out of the rules of its network. Of these
// only the manifest counts here, which anybody may read.
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
		ID: firewall.ID(network), Why: fmt.Sprintf("take %s out of the firewall of network %s", vm, network),
		Shows: op.Shows(), Root: op, Consent: plan.Typed,
	}}
}

// GuestsOf are the cards and addresses libvirt keeps for the VMs of a network,
// with this one.
func GuestsOf(n *virt.Network, mac string, ip netip.Addr) []wall.Guest {
	var w wall.Wall
	if n != nil {
		for _, h := range n.Hosts {
			w = w.With(h.MAC, h.IP)
		}
	}
	return w.With(mac, ip).Guests
}

// BeforeStart puts the rules in front of the start of the network: no guest is
// ever on it without them.
func BeforeStart(network string, nas, rules []plan.Action) []plan.Action {
	for i, a := range nas {
		if a.ID == "network.start:"+network {
			return append(append(append([]plan.Action{}, nas[:i]...), rules...), nas[i:]...)
		}
	}
	return append(nas, rules...)
}

// warnOfPorts tells who comes from 0.3 what its ports do not open any more.
func warnOfPorts(p *plan.Plan, fw config.Firewall) {
	ports := append(append([]string{}, fw.AllowTCPPorts...), fw.AllowUDPPorts...)
	if len(ports) > 0 && len(fw.AllowLAN) == 0 {
		p.Warn(fmt.Sprintf("allowed ports (%s) are open on this machine only; 0.3 opened them on the whole LAN: for a service there, allow_lan = [\"ADDRESS:PORT\"]", strings.Join(ports, ", ")))
	}
}

// PlanHooks puts libvirt's hooks in place: with them the rules of a network and
// the folders of a VM come back whenever libvirt starts it, and it does not
// start without. An old copy of this program is renewed without a question.
func PlanHooks(h plan.Known[loop.Hooks]) ([]plan.Action, error) {
	if h.Err != nil {
		return nil, ui.Failed("libvirt's hooks cannot be looked at: %w", h.Err).Hint(ui.Cmd("ls -l /etc/libvirt/hooks/network.d " + root.HookProgram))
	}
	if h.Value.Current {
		return nil, nil
	}
	op := root.Hooks{}
	a := plan.Action{
		ID: "host.hooks", Why: "have libvirt put rules and folders back in place when it starts a network or VM",
		Shows: op.Shows(), Consent: plan.Ask, Root: op, Timing: "host",
	}
	if h.Value.Known {
		a.Why, a.Consent = "renew the copy of aivm that libvirt's hooks run", plan.None
	}
	return []plan.Action{a}, nil
}
