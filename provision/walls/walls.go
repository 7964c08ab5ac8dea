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
	return &loop.WallFacts{Network: network, Rules: e.Wall.Rules(ctx, network, sudo)}
}

// See has f hold the rules of the network, which may be another one than that of
// the last look.
func (e Part) See(ctx context.Context, network string, f *loop.Facts) {
	if !e.NoFirewall && (f.Wall == nil || f.Wall.Network != network) {
		f.Wall = e.RulesOf(ctx, network, true)
	}
}

// Running looks at the rules of a network whose VM runs already, and plans what is
// missing of them.
func (e Part) Running(ctx context.Context, n config.Network, f *loop.Facts) ([]plan.Action, error) {
	e.See(ctx, n.Network.Name, f)
	guests, err := e.known(ctx, n, f)
	if err != nil {
		return nil, err
	}
	as, err := e.planRunning(n, f, guests)
	e.Offer(as, f)
	return as, err
}

// known are the guests that rules have to let through beside those they know: nil
// if they know some. Rules that were taken away know nobody, and libvirt does:
// others may run on this network, and must not be cut off by what is for this VM.
func (e Part) known(ctx context.Context, n config.Network, f *loop.Facts) ([]wall.Guest, error) {
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
func (e Part) Plan(n config.Network, f *loop.Facts, guests []wall.Guest) ([]plan.Action, error) {
	fw, spec := n.Firewall, n.Network
	if e.NoFirewall {
		e.WarnOnce(fmt.Sprintf("the firewall of network %s is not looked at, this once", spec.Name))
		return nil, nil
	}
	rules := f.Wall.Rules
	want, err := firewall.Want(fw, spec, guests)
	if err != nil {
		return nil, err
	}
	if !fw.Enabled {
		return firewall.PlanRemoval(rules, want), nil
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
		return nil, e.unreadable(spec.Name, err)
	}
	if len(as) > 0 {
		e.sayPorts(fw)
	}
	for _, s := range firewall.InTheWay(rules.Kernel.Value, spec.Bridge) {
		e.WarnOnce(s)
	}
	return as, nil
}

// planRunning is Plan for a VM that runs already. guests as for Plan.
func (e Part) planRunning(n config.Network, f *loop.Facts, guests []wall.Guest) ([]plan.Action, error) {
	as, err := e.Plan(n, f, guests)
	if err != nil || len(as) == 0 {
		return nil, err
	}
	// A login made while the rules were gone is one they do not know: the next
	// look makes a new one.
	as[len(as)-1].Again = true
	hooks, err := e.PlanHooks()
	return append(hooks, as...), err
}

// Offer names the line of sudoers that saves the password, if rules are put up
// that only root can read.
func (e Part) Offer(as []plan.Action, f *loop.Facts) {
	if len(as) > 0 && f.Wall != nil && errors.Is(f.Wall.Rules.Kernel.Err, firewall.ErrAsks) {
		e.offerOnce(f.Wall.Network)
	}
}

// PlanForget takes a VM that is deleted out of the rules of its network.
func (e Part) PlanForget(ctx context.Context, network, mac, vm string) []plan.Action {
	// Only the manifest counts here, and anybody may read it.
	m := e.Wall.Rules(ctx, network, false).Manifest
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

// sayPorts tells who comes from 0.3 what its ports do not open any more.
func (e Part) sayPorts(fw config.Firewall) {
	ports := append(append([]string{}, fw.AllowTCPPorts...), fw.AllowUDPPorts...)
	if len(ports) > 0 && len(fw.AllowLAN) == 0 {
		e.WarnOnce(fmt.Sprintf("allowed ports (%s) are open on this machine only; 0.3 opened them on the whole LAN: for a service there, allow_lan = [\"ADDRESS:PORT\"]", strings.Join(ports, ", ")))
	}
}

// offerOnce names the line of sudoers that saves the password, once for each
// network.
func (e Part) offerOnce(network string) {
	mark := e.State().OfferedPath(network)
	if _, err := os.Stat(mark); err == nil || e.DryRun || !errors.Is(err, fs.ErrNotExist) {
		return
	}
	e.WarnOnce("only root can look at the firewall. To be asked for no password because of that, allow just this reading: " + e.offer(network))
	if os.MkdirAll(filepath.Dir(mark), 0o700) == nil {
		_ = os.WriteFile(mark, nil, 0o600) // else it is offered again
	}
}

// PlanHooks puts libvirt's hooks in place: with them the rules of a network and
// the folders of a VM come back whenever libvirt starts it, and it does not
// start without. An old copy of this program is renewed without a question.
func (e Part) PlanHooks() ([]plan.Action, error) {
	current, known, err := e.Wall.Hooks()
	if err != nil {
		return nil, ui.Failed("libvirt's hooks cannot be looked at: %w", err).Hint(ui.Cmd("ls -l /etc/libvirt/hooks/network.d " + root.HookProgram))
	}
	if current {
		return nil, nil
	}
	op := root.Hooks{}
	a := plan.Action{
		ID: "host.hooks", Why: "have libvirt put rules and folders back in place when it starts a network or VM",
		Shows: op.Shows(), Consent: plan.Ask, Root: op, Timing: "host",
	}
	if known {
		a.Why, a.Consent = "renew the copy of aivm that libvirt's hooks run", plan.None
	}
	return []plan.Action{a}, nil
}
