package firewall

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/root/nftread"
	"aivm.dev/aivm/internal/wall"
)

func defaults() (config.Firewall, config.NetworkSpec) {
	d := config.DefaultConfig().Defaults
	return d.Firewall, d.Network
}

func TestWantTakesEverySpelling(t *testing.T) {
	fw, spec := defaults()
	fw.ExtraBlockCIDRs = []string{"198.18.0.0/15", "203.0.113.9", "2001:db8:1::/48", "10.1.2.3/8"}
	fw.AllowTCPPorts = []string{"443", "8000-8100"}
	fw.AllowUDPPorts = []string{"5353"}
	fw.AllowLAN = []string{"10.1.2.3:5432", "10.1.0.0/16:53/udp", "[fd00::5]:443", "10.1.2.3:8000-8010"}
	w, err := Want(fw, spec, []wall.Guest{{MAC: "52:54:00:00:00:01", IP: netip.MustParseAddr("10.77.0.10")}})
	if err != nil {
		t.Fatal(err)
	}
	s := wall.Script(w, nil)
	for _, want := range []string{
		"198.18.0.0/15", "203.0.113.9/32", "2001:db8:1::/48", "tcp . 443, tcp . 8000-8100, udp . 5353",
		"10.1.0.0/16 . udp . 53, 10.1.2.3/32 . tcp . 5432, 10.1.2.3/32 . tcp . 8000-8010", "fd00::5/128 . tcp . 443",
		"fc00::/7", "169.254.0.0/16", "168.63.129.16/32", "52:54:00:00:00:01 . 10.77.0.10", `iifname "virbr-aivm"`,
	} {
		if !strings.Contains(s, want) {
			t.Errorf("the rules lack %q", want)
		}
	}
	for _, doc := range []string{"192.0.2.", "198.51.100.", "2001:db8::/32"} {
		if strings.Contains(s, doc) {
			t.Errorf("a documentation range is blocked: %s", doc)
		}
	}
}

func TestWantRefuses(t *testing.T) {
	for want, change := range map[string]func(*config.Firewall, *config.NetworkSpec){
		"allow_lan": func(f *config.Firewall, _ *config.NetworkSpec) { f.AllowLAN = []string{"10.1.2.3"} },
		"allow_lan: \"10.1.2.3:0\"": func(f *config.Firewall, _ *config.NetworkSpec) {
			f.AllowLAN = []string{"10.1.2.3:0"}
		},
		"allow_tcp_ports":     func(f *config.Firewall, _ *config.NetworkSpec) { f.AllowTCPPorts = []string{"70000"} },
		"block_cidrs":         func(f *config.Firewall, _ *config.NetworkSpec) { f.BlockCIDRs = []string{"10.0.0.0/33"} },
		"subnet_cidr":         func(_ *config.Firewall, n *config.NetworkSpec) { n.SubnetCIDR = "" },
		"gateway_ip":          func(_ *config.Firewall, n *config.NetworkSpec) { n.GatewayIP = "" },
		"is not in subnet":    func(_ *config.Firewall, n *config.NetworkSpec) { n.GatewayIP = "10.9.0.1" },
		"invalid bridge name": func(_ *config.Firewall, n *config.NetworkSpec) { n.Bridge = "" },
	} {
		fw, spec := defaults()
		change(&fw, &spec)
		if _, err := Want(fw, spec, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
}

func seen(t *testing.T, change func(*Facts)) (Facts, wall.Wall) {
	t.Helper()
	fw, spec := defaults()
	w, err := Want(fw, spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	local := []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
	f := Facts{
		Manifest: plan.Yes(&root.NetManifest{Wall: w, Local: local, Script: wall.Digest(w, local), Digest: "d"}),
		Kernel:   plan.Yes(nftread.Content{Digest: "d"}), Local: plan.Yes(local),
	}
	change(&f)
	return f, w
}

func TestCompareAndPlan(t *testing.T) {
	broken := errors.New("netlink failed")
	for _, c := range []struct {
		name    string
		change  func(*Facts)
		tty     bool
		state   State
		consent plan.Consent // "-": no action
		err     error
	}{
		{"up to date", func(*Facts) {}, false, Loaded, "-", nil},
		{"never loaded", func(f *Facts) { f.Manifest.Value = nil }, false, Missing, plan.Ask, nil},
		{"flushed", func(f *Facts) { f.Kernel.Value.Digest = "" }, false, Missing, "", nil},
		{"an added rule", func(f *Facts) { f.Kernel.Value.Digest = "e" }, false, Altered, "", nil},
		{"an added private subnet", func(f *Facts) { f.Local.Value = append(f.Local.Value, netip.MustParsePrefix("10.9.0.0/24")) }, false, Loaded, "-", nil},
		{"an added public subnet", func(f *Facts) { f.Local.Value = append(f.Local.Value, netip.MustParsePrefix("8.8.8.0/24")) }, false, Outdated, "", nil},
		{"another config", func(f *Facts) {
			o := f.Manifest.Value.Wall
			o.Block = o.Block[1:]
			f.Manifest.Value.Script = wall.Digest(o, f.Local.Value)
		}, false, Outdated, "", nil},
		{"rules of an older aivm", func(f *Facts) { f.Manifest.Value.Script = "other" }, false, Outdated, "", nil},
		{"unreadable manifest", func(f *Facts) { f.Manifest = plan.Unknown[*root.NetManifest](broken) }, true, Unknown, "-", broken},
		{"unreadable rules", func(f *Facts) { f.Kernel = plan.Unknown[nftread.Content](broken) }, true, Unknown, "-", broken},
		{"unreadable addresses", func(f *Facts) { f.Local = plan.Unknown[[]netip.Prefix](broken) }, true, Unknown, "-", broken},
		{"sudo needs a password, no terminal", func(f *Facts) { f.Kernel = plan.Unknown[nftread.Content](ErrPasswordNeeded) }, false, Unknown, "-", ErrPasswordNeeded},
		{"sudo needs a password, with a terminal", func(f *Facts) { f.Kernel = plan.Unknown[nftread.Content](ErrPasswordNeeded) }, true, Unknown, "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, want := seen(t, c.change)
			state, _, _ := Compare(f, want)
			if state != c.state {
				t.Errorf("state %q, want %q", state, c.state)
			}
			as, err := Plan(f, want, c.tty)
			if !errors.Is(err, c.err) {
				t.Errorf("error %v, want %v", err, c.err)
			}
			if c.consent == "-" {
				if len(as) != 0 {
					t.Errorf("planned: %+v", as)
				}
				return
			}
			if len(as) != 1 || as[0].Consent != c.consent || as[0].Root == nil {
				t.Fatalf("planned: %+v", as)
			}
		})
	}
}

func TestBypasses(t *testing.T) {
	c := nftread.Content{
		Flowtables: []nftread.Flowtable{{Table: "fw", Name: "fast", Devices: []string{"eth0", "br0"}}, {Table: "x", Name: "other", Devices: []string{"eth1"}}},
		Chains: []nftread.Chain{
			{Family: "ip", Table: "nat", Name: "PREROUTING", Type: "nat", Hook: 0, Priority: -100}, // Docker's
			{Family: "ip", Table: "early", Name: "pre", Type: "nat", Hook: 0, Priority: -180},
			{Family: "netdev", Table: "n", Name: "in", Type: "filter", Hook: 0, Priority: 0, Device: "br0"},
			{Family: "netdev", Table: "n", Name: "in2", Type: "filter", Hook: 0, Priority: 0, Device: "eth0"},
		},
	}
	got := Bypasses(c, "br0")
	if len(got) != 3 || !strings.Contains(got[0], "fast") || !strings.Contains(got[1], "early") || !strings.Contains(got[2], "chain in of") {
		t.Errorf("%q", got)
	}
	if got := Bypasses(c, "br1"); len(got) != 1 {
		t.Errorf("%q", got)
	}
}
