package network

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/virt"
)

// fakeLibvirt keeps networks in memory, so that plans can be applied.
type fakeLibvirt struct{ nets []*virt.Network }

func (m *fakeLibvirt) DefineNetwork(_ context.Context, desc string) error {
	n, err := virt.ParseNetwork(desc)
	if err == nil {
		m.nets = append(m.nets, n)
	}
	return err
}

func (m *fakeLibvirt) Network(_ context.Context, name string) (*virt.Network, error) {
	for _, n := range m.nets {
		if n.Name == name {
			return n, nil
		}
	}
	return nil, virt.ErrNotFound
}

func (m *fakeLibvirt) HideHosts(ctx context.Context, name string) error {
	n, err := m.Network(ctx, name)
	if err == nil {
		n.HostsFile = false
	}
	return err
}

func (m *fakeLibvirt) StartNetwork(ctx context.Context, name string) error {
	n, err := m.Network(ctx, name)
	if err == nil {
		n.Active, n.Autostart = true, true
	}
	return err
}

func (m *fakeLibvirt) Reserve(ctx context.Context, name string, r virt.Reservation) error {
	n, err := m.Network(ctx, name)
	if err == nil {
		n.Hosts = append(n.Hosts, r)
	}
	return err
}

// FuzzRoutes checks that, whatever routes the host has, the chosen subnet overlaps none, and that
// applying the plan leaves nothing more to plan.
func FuzzRoutes(f *testing.F) {
	head := "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
	f.Add(head+"eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\neth0\t00004D0A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n", "10.77.0.0/24", "br0")
	f.Add(head+"tun0\t0000000A\t0\t1\t0\t0\t0\t000000FF\t0\t0\t0\nx\t0000A8C0\t0\t1\t0\t0\t0\t0000FFFF\n", "192.168.0.0/16", "virbr-aivm")
	f.Add(head+"x\tzz\t0\t1\t0\t0\t0\t0", "::/0", "")
	f.Fuzz(func(t *testing.T, routes, other, iface string) {
		rs, err := ParseRoutes(strings.NewReader(routes))
		if err != nil {
			return
		}
		if len(rs) > strings.Count(routes, "\n") {
			t.Errorf("%d routes of %q", len(rs), routes)
		}
		fs := Facts{Routes: plan.Yes(rs), Interfaces: []string{iface}}
		lv := &fakeLibvirt{}
		if p, err := netip.ParsePrefix(other); err == nil && p.Addr().Is4() {
			lv.nets = append(lv.nets, &virt.Network{Name: "other", Bridge: "virbr9", Subnet: p.Masked(), Gateway: p.Addr(), Active: true})
		}
		fs.Networks = plan.Yes(lv.nets)
		spec, err := Choose(fs, defaults(), me, false)
		if err != nil {
			return
		}
		sub, err := netip.ParsePrefix(spec.SubnetCIDR)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rs {
			if r.Dst.Bits() > 0 && r.Dst.Overlaps(sub) {
				t.Errorf("the chosen subnet %v overlaps route %v", sub, r.Dst)
			}
		}
		if len(lv.nets) > 0 && lv.nets[0].Subnet.Overlaps(sub) {
			t.Errorf("the chosen subnet %v overlaps network %v", sub, lv.nets[0].Subnet)
		}
		w := Wanted{Spec: spec, Owner: me, VM: "a", MAC: "52:54:00:01:02:03", IP: netip.MustParseAddr(spec.GatewayIP).Next()}
		as, err := Plan(fs, w, func() (Libvirt, error) { return lv, nil })
		if err != nil || len(as) == 0 {
			t.Fatalf("%d actions: %v", len(as), err)
		}
		for _, a := range as {
			if err := a.Do(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
		// The network's own route exists now.
		fs.Networks, fs.Interfaces = plan.Yes(lv.nets), append(fs.Interfaces, spec.Bridge)
		fs.Routes = plan.Yes(append(rs, Route{Interface: spec.Bridge, Dst: sub}))
		if as, err := Plan(fs, w, func() (Libvirt, error) { return nil, errors.New("libvirt was used again") }); err != nil || len(as) > 0 {
			t.Errorf("a second plan: %+v %v", as, err)
		}
		if again, err := Choose(fs, defaults(), me, false); err != nil || again.Name != spec.Name || again.SubnetCIDR != spec.SubnetCIDR {
			t.Errorf("%+v, and then %+v: %v", spec, again, err)
		}
	})
}
