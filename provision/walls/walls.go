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
	return &loop.WallFacts{Network: w.Network.Network.Name, Rules: e.Wall.Rules(ctx, w.Network.Network.Name, !w.NoSudo)}
}

// Plan puts the rules of the network in place before a guest behind them
// is used, or started. guests are those that have an address in it; nil: those
// the rules know already, and this one.
func (e Part) Plan(ctx context.Context, w *target.Target, f *loop.Facts, spec config.NetworkSpec, guests []wall.Guest) ([]plan.Action, error) {
	if e.NoFirewall {
		e.WarnOnce(fmt.Sprintf("the firewall of network %s is not looked at, this once", spec.Name))
		return nil, nil
	}
	if f.Wall == nil || f.Wall.Network != spec.Name {
		f.Wall = &loop.WallFacts{Network: spec.Name, Rules: e.Wall.Rules(ctx, spec.Name, true)}
	}
	rules := f.Wall.Rules
	fw := w.Network.Firewall
	if guests == nil && fw.Enabled && rules.Manifest.Err == nil && rules.Manifest.Value == nil {
		// Rules that were taken away know nobody: libvirt does. Others may run
		// on this network, and must not be cut off by what is for this VM.
		var err error
		if guests, err = e.guests(ctx, w.Network); err != nil {
			return nil, err
		}
		if f.Inst != nil {
			if ip, err := netip.ParseAddr(f.Inst.Address); err == nil {
				guests = wall.Wall{Guests: guests}.With(f.Inst.MAC, ip).Guests
			}
		}
	}
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
		if errors.Is(rules.Kernel.Err, firewall.ErrAsks) {
			e.offerOnce(spec.Name)
		}
	}
	for _, s := range firewall.InTheWay(rules.Kernel.Value, spec.Bridge) {
		e.WarnOnce(s)
	}
	return as, nil
}

// PlanRunning looks at the rules of a VM that runs already.
func (e Part) PlanRunning(ctx context.Context, w *target.Target, f *loop.Facts) ([]plan.Action, error) {
	as, err := e.Plan(ctx, w, f, w.Network.Network, nil)
	if err != nil || len(as) == 0 {
		return nil, err
	}
	// A login made while the rules were gone is one they do not know: the next
	// look makes a new one.
	as[len(as)-1].Again = true
	hooks, err := e.PlanHooks()
	return append(hooks, as...), err
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
		return nil, ui.Failed("libvirt's hooks cannot be looked at: %w", err).Hint("ls -l /etc/libvirt/hooks/network.d " + root.HookProgram)
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
