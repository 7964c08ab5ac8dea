package walls

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/root/nftread"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/internal/wall"
	"aivm.dev/aivm/provision/firewall"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/loop/looptest"
	"aivm.dev/aivm/provision/network"
)

// idsOf returns the ids of a plan's actions, in order.
func idsOf(p plan.Plan) string {
	out := make([]string, 0, len(p.Actions))
	for _, a := range p.Actions {
		out = append(out, a.ID)
	}
	return strings.Join(out, " ")
}

// named returns a network as a new config has it.
func named(name string) config.Network {
	d := config.DefaultConfig().Defaults
	n := config.Network{Name: name, Network: d.Network, Firewall: d.Firewall}
	n.Network.Name = name
	return n
}

// noRules returns the facts of a network that never had rules.
func noRules(name string) *loop.WallFacts {
	return &loop.WallFacts{Network: name, Guests: plan.Yes([]wall.Guest{})}
}

// inPlace returns the facts of a network whose rules are loaded as the config wants them.
func inPlace(t *testing.T, n config.Network) *loop.WallFacts {
	t.Helper()
	w, err := firewall.Want(n.Firewall, n.Network, []wall.Guest{})
	if err != nil {
		t.Fatal(err)
	}
	return &loop.WallFacts{Network: n.Network.Name, Guests: plan.Yes([]wall.Guest{}), Rules: firewall.Facts{
		Manifest: plan.Yes(&root.NetManifest{Wall: w, Script: wall.Digest(w, nil), Digest: "d"}), Kernel: plan.Yes(nftread.Content{Digest: "d"}),
	}}
}

// The plan of "host fw apply", by the facts about the networks.
func TestPlanApply(t *testing.T) {
	a, b := named("a"), named("b")
	gone := []root.NetManifest{{Wall: wall.Wall{Network: "gone"}}}
	old := plan.Yes(loop.Hooks{Known: true})
	right := plan.Yes(loop.Hooks{Current: true, Known: true})
	for _, c := range []struct {
		name    string
		is      applyFacts
		want    string
		scripts int
		err     string
	}{
		{name: "in place, whatever the hooks are", is: applyFacts{networks: []config.Network{a}, rules: []*loop.WallFacts{inPlace(t, a)}, hooks: old}},
		{name: "one is missing", is: applyFacts{networks: []config.Network{a, b}, rules: []*loop.WallFacts{inPlace(t, a), noRules("b")}, hooks: right}, want: "firewall.rules:b", scripts: 1},
		{name: "both, and the hooks are old", is: applyFacts{networks: []config.Network{a, b}, rules: []*loop.WallFacts{noRules("a"), noRules("b")}, hooks: old}, want: "host.hooks firewall.rules:a firewall.rules:b", scripts: 2},
		{name: "what is left over needs no hooks", is: applyFacts{stale: gone, hooks: old}, want: "firewall.forget:gone"},
		{name: "left over, and missing", is: applyFacts{stale: gone, networks: []config.Network{a}, rules: []*loop.WallFacts{noRules("a")}, hooks: old}, want: "host.hooks firewall.forget:gone firewall.rules:a", scripts: 1},
		{name: "hooks nobody can look at", is: applyFacts{networks: []config.Network{a}, rules: []*loop.WallFacts{inPlace(t, a)}, hooks: plan.Unknown[loop.Hooks](errors.New("unreadable"))}, err: "unreadable"},
	} {
		p, scripts, err := For(looptest.New(t).Loop).planApply(c.is)
		switch {
		case c.err != "":
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v", c.name, err)
			}
		case err != nil || idsOf(p) != c.want || len(scripts) != c.scripts:
			t.Errorf("%s: planned %q with %d scripts: %v", c.name, idsOf(p), len(scripts), err)
		}
	}
}

// A network's rules are loaded before its start, and it is recorded last.
func TestPlanNetwork(t *testing.T) {
	n := named("a")
	off := &virt.Network{Name: "a", Mark: virt.Mark{Exists: true, Owner: 4321}, Bridge: n.Network.Bridge, Gateway: netip.MustParseAddr(n.Network.GatewayIP), Subnet: netip.MustParsePrefix(n.Network.SubnetCIDR)}
	open := n
	open.Firewall.Enabled = false
	fresh := network.Facts{Networks: plan.Yes([]*virt.Network(nil))}
	known := network.Facts{Networks: plan.Yes([]*virt.Network{off})}
	for _, c := range []struct {
		name string
		is   createFacts
		want string
	}{
		{"nothing is there", createFacts{network: n, facts: fresh, wall: loop.Facts{Wall: noRules("a")}}, "host.hooks network.define:a firewall.rules:a network.start:a store.network:a"},
		{"it is off", createFacts{network: n, known: true, facts: known, wall: loop.Facts{Wall: inPlace(t, n)}}, "host.hooks network.start:a"},
		{"it is off, and its firewall too", createFacts{network: open, known: true, facts: known, wall: loop.Facts{Wall: noRules("a")}}, "network.start:a"},
	} {
		p, err := For(looptest.New(t).Loop).planNetwork(t.Context(), c.is)
		if err != nil || idsOf(p) != c.want {
			t.Errorf("%s: planned %q, want %q (%v)", c.name, idsOf(p), c.want, err)
		}
	}
}

// Destroying a network removes libvirt's network, its rules, and its record if no VM uses it.
func TestPlanDestroy(t *testing.T) {
	n := named("a")
	for _, c := range []struct {
		name string
		is   removal
		want string
	}{
		{"all of it", removal{Network: n, conn: &virt.Conn{}, rules: inPlace(t, n).Rules}, "network.remove:a firewall.remove:a store.network:a"},
		{"VMs have it", removal{Network: n, users: []string{"t"}, conn: &virt.Conn{}, rules: inPlace(t, n).Rules}, "network.remove:a firewall.remove:a"},
		{"libvirt does not know it", removal{Network: n}, "store.network:a"},
		{"rules nobody can read", removal{Network: n, rules: firewall.Facts{Manifest: plan.Unknown[*root.NetManifest](errors.New("x"))}}, "firewall.remove:a store.network:a"},
	} {
		if got := idsOf(For(looptest.New(t).Loop).planDestroy(c.is)); got != c.want {
			t.Errorf("%s: planned %q, want %q", c.name, got, c.want)
		}
	}
}

// A deleted VM is removed from rules that have it; other rules are not touched.
func TestPlanForget(t *testing.T) {
	const mac = "52:54:00:00:00:01"
	knows := wall.Wall{Network: "a"}.With(mac, netip.MustParseAddr("10.77.0.10"))
	for _, c := range []struct {
		name string
		is   firewall.Facts
		want bool
	}{
		{"no rules", firewall.Facts{}, false},
		{"unreadable", firewall.Facts{Manifest: plan.Unknown[*root.NetManifest](errors.New("x"))}, false},
		{"it is not in them", firewall.Facts{Manifest: plan.Yes(&root.NetManifest{Wall: wall.Wall{Network: "a"}})}, false},
		{"it is", firewall.Facts{Manifest: plan.Yes(&root.NetManifest{Wall: knows})}, true},
	} {
		as := PlanForget(c.is, "a", mac, "t")
		if (len(as) == 1) != c.want || len(as) > 1 {
			t.Errorf("%s: %+v", c.name, as)
		}
		if len(as) == 1 {
			if op, ok := as[0].Root.(root.Nft); !ok || !op.IfUp || len(op.Wall.Guests) != 0 || as[0].Consent != plan.Typed {
				t.Errorf("%s: %+v", c.name, as[0])
			}
		}
	}
}
