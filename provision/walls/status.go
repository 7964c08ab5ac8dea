package walls

import (
	"context"
	"fmt"
	"strings"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/wall"
	"aivm.dev/aivm/provision/firewall"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/target"
)

// compare compares the rules of a network with the config, for a command that changes
// nothing: it takes the guests from the manifest. It returns the wanted rules, their state
// and why they differ.
func compare(n config.Network, rules firewall.Facts) (wall.Wall, firewall.State, string, error) {
	var guests []wall.Guest
	if m := rules.Manifest.Value; m != nil {
		guests = m.Wall.Guests
	}
	want, err := firewall.Want(n.Firewall, n.Network, guests)
	if err != nil && (rules.Manifest.Err != nil || rules.Manifest.Value != nil) {
		return want, firewall.Unknown, "", err
	}
	state, why, err := firewall.Compare(rules, want)
	return want, state, why, err
}

// off is the state of a firewall that the config switches off.
const off = "off"

// Listed reports, for `aivm list`, whether the rules of a network are loaded, and their
// state. Without root the kernel cannot be read; then a manifest counts as loaded rules.
func (e Part) Listed(ctx context.Context, n config.Network) (bool, string) {
	if !n.Firewall.Enabled {
		return false, off
	}
	rules := e.Firewall.Rules(ctx, n.Network.Name, false)
	_, state, _, _ := compare(n, rules) // `aivm status` reports why
	up := state == firewall.Loaded || state == firewall.Unknown && rules.Manifest.Err == nil && rules.Manifest.Value != nil
	return up, string(state)
}

// Check returns the line of `aivm status` about the rules of the VM's network.
func (e Part) Check(ctx context.Context, w *target.Target, f *loop.Facts) host.Check {
	c := host.NewCheck("firewall", "Firewall", host.OK, "the rules of network %s are loaded", w.Network.Name)
	if !w.Network.Firewall.Enabled {
		return host.NewCheck("firewall", "Firewall", host.Skipped, "switched off in the config: the guest can access this machine and its networks")
	}
	if f.Wall == nil {
		return host.NewCheck("firewall", "Firewall", host.Unknown, "the rules were not read")
	}
	want, state, why, err := compare(w.Network, f.Wall.Rules)
	apply := "aivm host fw apply --network " + shellescape.Quote(w.Network.Name)
	switch {
	case err != nil:
		c.State, c.Detail = host.Unknown, err.Error()
		if f.Wall.Rules.Manifest.Value != nil && e.UID != 0 && w.NoSudo {
			c.Detail = "loaded earlier; only root can check that nothing changed them since"
			c.Fix = []string{"aivm status --sudo"}
		}
		return c
	case state != firewall.Loaded:
		c.State, c.Detail = host.Bad, fmt.Sprintf("the rules of network %s are %s: %s", w.Network.Name, state, why)
		c.Fix = []string{apply}
		return c
	}
	if found := firewall.Bypasses(f.Wall.Rules.Kernel.Value, w.Network.Network.Bridge); len(found) > 0 {
		c.State, c.Detail = host.Bad, strings.Join(found, "; ")
		c.Fix = []string{"sudo nft list ruleset"}
		return c
	}
	if cs := e.cutOffs(ctx, want, !w.NoSudo); len(cs) > 0 {
		c.State, c.Fix = host.Bad, firewall.Fixes(cs)
		what := make([]string, 0, len(cs))
		for _, k := range cs {
			what = append(what, fmt.Sprintf("%s (chain %s)", k.What, k.Chain))
		}
		c.Detail = "the rules are loaded, but those of another program block the guest's access to " + strings.Join(what, ", ")
	}
	return c
}

// cutOffs returns the traffic that a guest needs and that other programs' rules drop; nil
// if the rules cannot be read. That is not an error, since cutOffs only explains one.
func (e Part) cutOffs(ctx context.Context, want wall.Wall, sudo bool) []firewall.CutOff {
	b, err := e.Firewall.Ruleset(ctx, sudo)
	if err != nil {
		return nil
	}
	cs, err := firewall.CutOffs(b, want, e.uplink())
	if err != nil {
		return nil
	}
	return cs
}

// WhyCutOff returns the rules of other programs that cut off a VM that does not answer.
func (e Part) WhyCutOff(ctx context.Context, w *target.Target) []string {
	want, err := firewall.Want(w.Network.Firewall, w.Network.Network, nil)
	if err != nil {
		return nil
	}
	var out []string
	for _, c := range e.cutOffs(ctx, want, true) {
		out = append(out, c.String())
	}
	return out
}

// uplink returns the interface of the default route; "" if there is none.
func (e Part) uplink() string {
	rs, _ := e.Routes()
	for _, r := range rs.Value {
		if r.Dst.Bits() == 0 {
			return r.Interface
		}
	}
	return ""
}

// AccessSentence returns the first half of the sentence of `aivm status` on what the guest can
// access.
func AccessSentence(n config.Network, rules *firewall.Facts) string {
	const everything = "reaches the internet, this machine and its networks"
	if !n.Firewall.Enabled {
		return everything + " (the firewall is switched off in the config)"
	}
	if rules == nil {
		return "reaches what its firewall allows; the rules were not read"
	}
	want, state, _, err := compare(n, *rules)
	switch {
	case state == firewall.Loaded:
		return wall.Sentence(want)
	case err != nil && rules.Manifest.Value != nil:
		return wall.Sentence(want) + " (unless the rules were changed since: " + err.Error() + ")"
	case err != nil:
		return "reaches an unknown set of addresses: " + err.Error()
	}
	return everything + fmt.Sprintf(" (the rules are %s; the next use of the VM loads them)", state)
}
