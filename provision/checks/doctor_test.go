package checks

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/internal/wall"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/loop/looptest"
	"aivm.dev/aivm/provision/network"
)

func TestNetworksCheck(t *testing.T) {
	w := looptest.New(t)
	store, err := w.Load()
	if err != nil {
		t.Fatal(err)
	}
	own := &virt.Network{Name: "n", Bridge: "virbr-n", Subnet: netip.MustParsePrefix("10.77.0.0/24"), Active: true, Mark: virt.Mark{Exists: true, Owner: w.UID}}
	route := func(dst, iface string) network.Route {
		return network.Route{Interface: iface, Dst: netip.MustParsePrefix(dst)}
	}
	for _, tt := range []struct {
		name   string
		nets   []*virt.Network
		netErr error
		routes []network.Route
		want   host.State
		detail string
	}{
		{"nothing yet", nil, nil, nil, host.OK, "the first VM gets aivm-net on 10.77.0.0/24, which is free"},
		{"taken by a route", nil, nil, []network.Route{route("10.77.0.0/16", "eth0")}, host.OK, "on 10.78.0.0/24, since 10.77.0.0/24 is taken"},
		{"aivm's network runs", []*virt.Network{own}, nil, []network.Route{route("10.77.0.0/24", "virbr-n")}, host.OK, "n on 10.77.0.0/24"},
		{"a VPN took its route", []*virt.Network{own}, nil, []network.Route{route("10.77.0.0/24", "tun0")}, host.Bad, "cannot be reached"},
		{"a VPN's wide route", []*virt.Network{own}, nil, []network.Route{route("10.0.0.0/8", "tun0")}, host.OK, "does not affect it"},
		{"libvirt unknown", nil, virt.ErrDenied, nil, host.Unknown, "not known"},
	} {
		var d DoctorFacts
		d.store.Value = store
		d.Net = network.Facts{Networks: plan.Known[[]*virt.Network]{Value: tt.nets, Err: tt.netErr}, Routes: plan.Yes(tt.routes)}
		if c := For(w.Loop).NetworksCheck(d); c.State != tt.want || !strings.Contains(c.Detail, tt.detail) {
			t.Errorf("%s: %+v", tt.name, c)
		}
	}
	d := DoctorFacts{Net: network.Facts{Networks: plan.Yes[[]*virt.Network](nil), Routes: plan.Yes[[]network.Route](nil)}}
	d.store.Value = store
	d.StaleFirewalls.Value = []root.NetManifest{{Wall: wall.Wall{Network: "gone"}}}
	if c := For(w.Loop).NetworksCheck(d); c.State != host.Bad || !strings.Contains(c.Detail, "gone") || !slices.Contains(c.Fix, "aivm host doctor --fix") {
		t.Errorf("a stale firewall: %+v", c)
	}
	d.StaleFirewalls = plan.Unknown[[]root.NetManifest](os.ErrPermission)
	if c := For(w.Loop).NetworksCheck(d); c.State != host.Unknown {
		t.Errorf("unknown stale firewalls: %+v", c)
	}
}

// banner reads the first line of a guest's SSH server, and does not wait for a silent one.
func TestBanner(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	lines := make(chan string, 3)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			// Keep a reference: the garbage collector closes an unreferenced connection.
			t.Cleanup(func() { _ = c.Close() })
			_, _ = c.Write([]byte(<-lines))
		}
	}()
	for line, want := range map[string]string{
		"SSH-2.0-OpenSSH_9.2p1 Debian\r\n": "SSH-2.0-OpenSSH_9.2p1 Debian",
		"SSH-2.0-\x1b[2Jx\r\n":             "SSH-2.0-\\x1b[2Jx",
	} {
		lines <- line
		if got, err := For(looptest.New(t).Loop).banner(t.Context(), l.Addr().String()); err != nil || got != want {
			t.Errorf("%q: %q, %v", line, got, err)
		}
	}
	lines <- ""
	if _, err := For(looptest.New(t).Loop).banner(t.Context(), l.Addr().String()); err == nil || !strings.Contains(err.Error(), "did not send") {
		t.Errorf("a silent one: %v", err)
	}
}
