package network

import (
	"context"
	"errors"
	"flag"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/virt"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const me = 1000

func defaults() config.NetworkSpec { return config.DefaultConfig().Defaults.Network }

func lnet(name, bridge, subnet string, owner int, hosts ...virt.Reservation) *virt.Network {
	p := netip.MustParsePrefix(subnet)
	n := &virt.Network{Name: name, Bridge: bridge, Subnet: p, Gateway: p.Addr().Next(), Hosts: hosts, Active: true, Autostart: true}
	if owner >= 0 {
		n.Mark = virt.Mark{Exists: true, Owner: owner}
	}
	return n
}

func route(dev, dst string) Route { return Route{Interface: dev, Dst: netip.MustParsePrefix(dst)} }

func facts(ns []*virt.Network, rs []Route, ifs ...string) Facts {
	return Facts{Networks: plan.Yes(ns), Routes: plan.Yes(rs), Interfaces: ifs}
}

func TestChoose(t *testing.T) {
	for _, c := range []struct {
		name         string
		f            Facts
		want, bridge string
		subnet       string
	}{
		{"nothing there", facts(nil, nil), "aivm-net", "virbr-aivm", "10.77.0.0/24"},
		{"a default route overlaps nothing", facts(nil, []Route{route("eth0", "0.0.0.0/0")}), "aivm-net", "virbr-aivm", "10.77.0.0/24"},
		{"a VPN uses the first", facts(nil, []Route{route("tun0", "10.77.0.0/16")}), "aivm-net", "virbr-aivm", "10.78.0.0/24"},
		{"a company uses all of 10/8", facts(nil, []Route{route("eth0", "10.0.0.0/8")}), "aivm-net", "virbr-aivm", "192.168.77.0/24"},
		{"another libvirt network uses the first", facts([]*virt.Network{lnet("x", "virbr7", "10.77.0.0/24", -1)}, nil), "aivm-net", "virbr-aivm", "10.78.0.0/24"},
		{"this user's network exists", facts([]*virt.Network{lnet("aivm-net", "virbr-aivm", "10.77.0.0/24", me)}, []Route{route("virbr-aivm", "10.77.0.0/24")}, "virbr-aivm"), "aivm-net", "virbr-aivm", "10.77.0.0/24"},
		{"another user's network", facts([]*virt.Network{lnet("aivm-net", "virbr-aivm", "10.77.0.0/24", 0)}, nil), "aivm-net-2", "virbr-aivm2", "10.78.0.0/24"},
		{"the name of a network not made by aivm", facts([]*virt.Network{lnet("aivm-net", "br9", "10.9.0.0/24", -1)}, nil), "aivm-net-2", "virbr-aivm2", "10.77.0.0/24"},
		{"the bridge of another program", facts(nil, nil, "virbr-aivm"), "aivm-net-2", "virbr-aivm2", "10.77.0.0/24"},
		{"this user's second network", facts([]*virt.Network{lnet("aivm-net", "virbr-aivm", "10.77.0.0/24", 0), lnet("aivm-net-2", "virbr-aivm2", "10.78.0.0/24", me)}, nil), "aivm-net-2", "virbr-aivm2", "10.78.0.0/24"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Choose(c.f, defaults(), me, false)
			if err != nil || got.Name != c.want || got.Bridge != c.bridge || got.SubnetCIDR != c.subnet {
				t.Errorf("%+v %v", got, err)
			}
			if err := Conflict(c.f, got, me); err != nil {
				t.Errorf("the chosen network is refused: %v", err)
			}
			if len(got.Bridge) > 15 {
				t.Errorf("bridge name %q is too long for Linux", got.Bridge)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		f    Facts
		says string
	}{
		{"the name of a network not made by aivm", facts([]*virt.Network{lnet("aivm-net", "br9", "10.9.0.0/24", -1)}, nil), "was not made by aivm"},
		{"the name of another user's network", facts([]*virt.Network{lnet("aivm-net", "br9", "10.9.0.0/24", 7)}, nil), "was not made by aivm for this user"},
		{"bridge", facts(nil, nil, "virbr-aivm"), `bridge "virbr-aivm"`},
		{"route", facts(nil, []Route{route("tun0", "10.77.0.128/25")}), "overlaps route 10.77.0.128/25 via tun0"},
		{"network", facts([]*virt.Network{lnet("x", "br9", "10.77.0.0/16", -1)}, nil), `overlaps libvirt network "x"`},
		{"routes unknown", Facts{Networks: plan.Yes[[]*virt.Network](nil), Routes: plan.Unknown[[]Route](errors.New("no proc"))}, "no proc"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Choose(c.f, defaults(), me, true)
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v", err)
			}
		})
	}
	f := facts(nil, nil)
	f.Networks.Err = errors.New("libvirt is busy")
	if _, err := Choose(f, defaults(), me, false); err == nil || !strings.Contains(err.Error(), "busy") {
		t.Errorf("an unreadable list is taken for an empty one: %v", err)
	}
}

func TestAddress(t *testing.T) {
	spec := defaults()
	var hosts []virt.Reservation
	for i := range 95 {
		ip := netip.AddrFrom4([4]byte{10, 77, 0, byte(10 + i)})
		a, reserved, err := Address(spec, lnet("aivm-net", "b", "10.77.0.0/24", me, hosts...), "52:54:00:00:00:01")
		if i < 90 && (err != nil || reserved || a != ip) {
			t.Fatalf("address %d: %s %v %v", i, a, reserved, err)
		}
		hosts = append(hosts, virt.Reservation{MAC: "x", IP: ip})
	}
	// .10-.99 are used up, .100-.200 are DHCP's: the rest of the subnet is used.
	if a, _, err := Address(spec, lnet("aivm-net", "b", "10.77.0.0/24", me, hosts...), "y"); err != nil || a.String() != "10.77.0.201" {
		t.Errorf("%s %v", a, err)
	}
	own := netip.MustParseAddr("10.77.0.42")
	n := lnet("aivm-net", "b", "10.77.0.0/24", me, virt.Reservation{MAC: "52:54:00:AA:00:01", IP: own})
	if a, reserved, err := Address(spec, n, "52:54:00:aa:00:01"); err != nil || !reserved || a != own {
		t.Errorf("%s %v %v", a, reserved, err)
	}
	small := spec
	small.SubnetCIDR, small.GatewayIP, small.DHCPStart, small.DHCPEnd = "10.9.0.0/28", "10.9.0.1", "", ""
	full := lnet("n", "b", "10.9.0.0/28", me)
	for i := byte(2); i < 15; i++ {
		full.Hosts = append(full.Hosts, virt.Reservation{MAC: "x", IP: netip.AddrFrom4([4]byte{10, 9, 0, i})})
	}
	if a, _, err := Address(small, full, "y"); !errors.Is(err, ErrFull) {
		t.Errorf("a full subnet gave %s %v", a, err)
	}
}

// dnsmasq does not give out a reserved address while another guest has a lease on it; the lease of
// a deleted VM lasts an hour.
func TestAddressAvoidsLeases(t *testing.T) {
	at := netip.MustParseAddr
	spec := defaults()
	n := lnet("aivm-net", "b", "10.77.0.0/24", me)
	n.Leases = []virt.Reservation{{MAC: "52:54:00:00:00:01", IP: at("10.77.0.10")}, {MAC: "52:54:00:00:00:02", IP: at("10.77.0.11")}}
	for mac, want := range map[string]string{"52:54:00:00:00:01": "10.77.0.10", "52:54:00:00:00:03": "10.77.0.12"} {
		if a, _, err := Address(spec, n, mac); err != nil || a != at(want) {
			t.Errorf("%s gets %s %v, want %s", mac, a, err, want)
		}
	}
	if Free(spec, n, "52:54:00:00:00:03", at("10.77.0.11")) || !Free(spec, n, "52:54:00:00:00:02", at("10.77.0.11")) {
		t.Error("a leased address is not free for its own guest only")
	}
	small := spec
	small.SubnetCIDR, small.GatewayIP, small.DHCPStart, small.DHCPEnd = "10.9.0.0/28", "10.9.0.1", "", ""
	full := lnet("n", "b", "10.9.0.0/28", me)
	for i := byte(2); i < 15; i++ {
		full.Leases = append(full.Leases, virt.Reservation{MAC: "x", IP: netip.AddrFrom4([4]byte{10, 9, 0, i})})
	}
	if a, _, err := Address(small, full, "y"); err != nil || a != at("10.9.0.2") {
		t.Errorf("with a lease on every address: %s %v", a, err)
	}
}

func TestMAC(t *testing.T) {
	a, b := MAC("1000-a"), MAC("1000-b")
	if a == b || a != MAC("1000-a") || !strings.HasPrefix(a, "52:54:00:") || len(a) != 17 {
		t.Errorf("%s %s", a, b)
	}
}

func TestParseRoutes(t *testing.T) {
	const table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n" +
		"eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n" +
		"eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
	rs, err := ParseRoutes(strings.NewReader(table))
	if err != nil || len(rs) != 2 || rs[0].Dst.String() != "0.0.0.0/0" || rs[1].Dst.String() != "192.0.2.0/24" || rs[1].Interface != "eth0" {
		t.Errorf("%v %v", rs, err)
	}
	if _, err := ParseRoutes(strings.NewReader("h\neth0 zz 0 0 0 0 0 0\n")); err == nil {
		t.Error("nonsense was parsed")
	}
}

func TestXML(t *testing.T) {
	got, err := XML(defaults(), me)
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "network.xml")
	if *update {
		if err := os.WriteFile(golden, []byte(got+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil || string(want) != got+"\n" {
		t.Errorf("%v\n%s", err, got)
	}
	if out, err := exec.Command("virt-xml-validate", golden, "network").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	n, err := virt.ParseNetwork(got)
	if err != nil || !n.Mark.By(me) || n.Bridge != "virbr-aivm" || n.Subnet.String() != "10.77.0.0/24" || n.Gateway.String() != "10.77.0.1" {
		t.Errorf("%+v %v", n, err)
	}
}

// fake is a libvirt in which another process was faster.
type fake struct {
	n   *virt.Network
	err error
}

func (f fake) DefineNetwork(context.Context, string) error             { return f.err }
func (f fake) HideHosts(context.Context, string) error                 { return f.err }
func (f fake) StartNetwork(context.Context, string) error              { return f.err }
func (f fake) Reserve(context.Context, string, virt.Reservation) error { return f.err }
func (f fake) Network(context.Context, string) (*virt.Network, error) {
	if f.n == nil {
		return nil, virt.ErrNotFound
	}
	return f.n, nil
}

func TestPlan(t *testing.T) {
	w := Wanted{Spec: defaults(), Owner: me, VM: "a", MAC: "52:54:00:00:00:01", IP: netip.MustParseAddr("10.77.0.10")}
	ids := func(as []plan.Action) (s string) {
		for _, a := range as {
			s += a.ID + " " + string(a.Consent) + ","
		}
		return s
	}
	r := virt.Reservation{MAC: w.MAC, IP: w.IP, Name: "a"}
	for _, c := range []struct {
		name, want string
		f          Facts
	}{
		{"from nothing", "network.define:aivm-net ask,network.reserve:a ,network.start:aivm-net ,", facts(nil, nil)},
		{"nothing missing", "", facts([]*virt.Network{lnet("aivm-net", "virbr-aivm", "10.77.0.0/24", me, r)}, nil)},
		{"no reservation", "network.reserve:a ,", facts([]*virt.Network{lnet("aivm-net", "virbr-aivm", "10.77.0.0/24", me)}, nil)},
	} {
		as, err := Plan(c.f, w, func() (Libvirt, error) { return fake{}, nil })
		if err != nil || ids(as) != c.want {
			t.Errorf("%s: %s %v", c.name, ids(as), err)
		}
	}
	taken := lnet("aivm-net", "virbr-aivm", "10.77.0.0/24", me, virt.Reservation{MAC: "x", Name: "b", IP: w.IP})
	if err := reserve(context.Background(), fake{taken, errors.New("in use")}, w); !errors.Is(err, plan.ErrStale) {
		t.Errorf("an address taken by another process: %v", err)
	}
	done := lnet("aivm-net", "virbr-aivm", "10.77.0.0/24", me, r)
	if err := reserve(context.Background(), fake{done, errors.New("already exists")}, w); err != nil {
		t.Errorf("already reserved: %v", err)
	}
}

// Choose takes an existing network of aivm without a record as it is, not with the defaults.
func TestChooseKeepsExistingNetwork(t *testing.T) {
	f := facts([]*virt.Network{lnet("aivm-net", "virbr7", "10.78.0.0/24", me)}, nil)
	got, err := Choose(f, defaults(), me, false)
	if err != nil || got.SubnetCIDR != "10.78.0.0/24" || got.GatewayIP != "10.78.0.1" || got.DHCPStart != "10.78.0.100" || got.Bridge != "virbr7" {
		t.Errorf("%+v %v", got, err)
	}
}

// ChooseForName keeps the chosen name and finds a free bridge and subnet.
func TestChooseForName(t *testing.T) {
	spec := defaults()
	spec.Name = "lab"
	long := spec
	long.Bridge = "a-bridge-of-len"
	for _, c := range []struct {
		name           string
		f              Facts
		spec           config.NetworkSpec
		bridge, subnet string
		fails          string
	}{
		{"nothing there", facts(nil, nil), spec, "virbr-aivm", "10.77.0.0/24", ""},
		{"beside the first", facts([]*virt.Network{lnet("aivm-net", "virbr-aivm", "10.77.0.0/24", me)}, nil, "virbr-aivm"), spec, "virbr-aivm2", "10.78.0.0/24", ""},
		{"a long bridge", facts(nil, nil, "a-bridge-of-len"), long, "a-bridge-of-l2", "10.77.0.0/24", ""},
		{"this user's network exists", facts([]*virt.Network{lnet("lab", "br9", "10.9.0.0/24", me)}, nil), spec, "br9", "10.9.0.0/24", ""},
		{"the name of a network not made by aivm", facts([]*virt.Network{lnet("lab", "br9", "10.9.0.0/24", -1)}, nil), spec, "", "", "not made by aivm"},
		{"unreadable", Facts{Networks: plan.Unknown[[]*virt.Network](errors.New("silence"))}, spec, "", "", "silence"},
	} {
		got, err := ChooseForName(c.f, c.spec, me)
		if c.fails != "" {
			if err == nil || !strings.Contains(err.Error(), c.fails) {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if err != nil || got.Name != "lab" || got.Bridge != c.bridge || got.SubnetCIDR != c.subnet || len(got.Bridge) > 15 {
			t.Errorf("%s: %+v, %v", c.name, got, err)
		}
	}
}
