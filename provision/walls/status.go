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

// compare is how the rules of a network are, seen from a look that changes
// nothing: the guests are those the rules know.
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

// off is how list says that the config switched a firewall off.
const off = "off"

// Listed says whether the rules of a network are in place. Who may not ask
// the kernel is told that they were put up.
func (e Part) Listed(ctx context.Context, n config.Network) (bool, string) {
	if !n.Firewall.Enabled {
		return false, off
	}
	rules := e.Firewall.Rules(ctx, n.Network.Name, false)
	_, state, _, _ := compare(n, rules) // why not is status's business
	up := state == firewall.Loaded || state == firewall.Unknown && rules.Manifest.Err == nil && rules.Manifest.Value != nil
	return up, string(state)
}

// Check is status's line on the rules of the VM's network.
func (e Part) Check(ctx context.Context, w *target.Target, f *loop.Facts) host.Check {
	c := host.NewCheck("firewall", "Firewall", host.OK, "the rules of network %s are in place", w.Network.Name)
	if !w.Network.Firewall.Enabled {
		return host.NewCheck("firewall", "Firewall", host.Skipped, "switched off in the config: the guest reaches this machine and its networks")
	}
	if f.Wall == nil {
		return host.NewCheck("firewall", "Firewall", host.Unknown, "not looked at")
	}
	want, state, why, err := compare(w.Network, f.Wall.Rules)
	apply := "aivm host fw apply --network " + shellescape.Quote(w.Network.Name)
	switch {
	case err != nil:
		c.State, c.Detail = host.Unknown, err.Error()
		if f.Wall.Rules.Manifest.Value != nil && e.UID != 0 && w.NoSudo {
			c.Detail = "put up before; whether nobody changed them only root can see"
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
		c.Detail = "the rules are in place, and those of another program cut the guest off from " + strings.Join(what, ", ")
	}
	return c
}

// cutOffs are what a guest of the wall needs and other programs' rules drop; nil
// where that cannot be seen: it explains a trouble, and is none.
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

// WhyCutOff names what cuts the guest off, for a VM that does not answer.
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

// uplink is the card of the default route; "" if there is none.
func (e Part) uplink() string {
	rs, _ := e.Routes()
	for _, r := range rs.Value {
		if r.Dst.Bits() == 0 {
			return r.Interface
		}
	}
	return ""
}

// AccessSentence is the first half of status's sentence: what the guest can get at.
func AccessSentence(n config.Network, rules *firewall.Facts) string {
	const everything = "reaches the internet, this machine and its networks"
	if !n.Firewall.Enabled {
		return everything + " (the firewall is switched off in the config)"
	}
	if rules == nil {
		return "reaches what its firewall lets through, which was not looked at"
	}
	want, state, _, err := compare(n, *rules)
	switch {
	case state == firewall.Loaded:
		return wall.Sentence(want)
	case err != nil && rules.Manifest.Value != nil:
		return wall.Sentence(want) + " (if nobody changed the rules: " + err.Error() + ")"
	case err != nil:
		return "reaches what could not be told: " + err.Error()
	}
	return everything + fmt.Sprintf(" (the rules are %s; the next use puts them in place)", state)
}
