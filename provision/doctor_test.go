package provision

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"aivm.dev/aivm/internal/editor"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/internal/wall"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/network"
)

func verdicts(st Diagnosis) map[string]host.Check {
	by := map[string]host.Check{}
	for _, c := range st.Checks {
		by[c.ID] = c
	}
	return by
}

// A person libvirt refuses: root is asked for nothing without --sudo, and with
// it for two looks.
func TestDoctorAsksRootOnlyWithSudo(t *testing.T) {
	w := newWorld(t)
	w.Host.Euid = 4321
	w.Editor = noEditor()
	w.rootErr = errors.New("sudo said no")
	st, err := w.Doctor(context.Background(), DoctorOptions{})
	if err != nil || len(w.ops) != 0 {
		t.Fatalf("%v, %v", w.ops, err)
	}
	by := verdicts(st)
	if c := by["networks"]; c.State != host.Unknown || !strings.Contains(strings.Join(c.Fix, " "), "--sudo") {
		t.Errorf("%+v", c)
	}
	if by["libvirtd"].State != host.OK || st.Total == 0 || len(st.Fixed) != 0 {
		t.Errorf("%+v", st)
	}
	if _, err := w.Doctor(context.Background(), DoctorOptions{Sudo: true}); err != nil {
		t.Fatal(err)
	}
	for _, op := range w.ops {
		switch op.(type) {
		case root.LibvirtSocket, root.Ruleset:
		default:
			t.Errorf("asked root for %#v", op)
		}
	}
	if len(w.ops) == 0 || !strings.Contains(w.err.String(), "sudo said no") {
		t.Errorf("ops %v, said %q", w.ops, w.err.String())
	}
}

func TestNetworksCheck(t *testing.T) {
	w := newWorld(t)
	store, err := w.load()
	if err != nil {
		t.Fatal(err)
	}
	ours := &virt.Network{Name: "n", Bridge: "virbr-n", Subnet: netip.MustParsePrefix("10.77.0.0/24"), Active: true, Mark: virt.Mark{Ours: true, Owner: w.UID}}
	route := func(dst, iface string) network.Route {
		return network.Route{Interface: iface, Dst: netip.MustParsePrefix(dst)}
	}
	for _, tt := range []struct {
		name   string
		nets   []*virt.Network
		netErr error
		routes []network.Route
		want   host.State
		says   string
	}{
		{"nothing yet", nil, nil, nil, host.OK, "the first VM gets aivm-net on 10.77.0.0/24, which is free"},
		{"taken by a route", nil, nil, []network.Route{route("10.77.0.0/16", "eth0")}, host.OK, "on 10.78.0.0/24, since 10.77.0.0/24 is taken"},
		{"ours runs", []*virt.Network{ours}, nil, []network.Route{route("10.77.0.0/24", "virbr-n")}, host.OK, "n on 10.77.0.0/24"},
		{"a VPN took its route", []*virt.Network{ours}, nil, []network.Route{route("10.77.0.0/24", "tun0")}, host.Bad, "cannot be reached"},
		{"a VPN's wide route", []*virt.Network{ours}, nil, []network.Route{route("10.0.0.0/8", "tun0")}, host.OK, "hides nothing"},
		{"libvirt unknown", nil, virt.ErrDenied, nil, host.Unknown, "not known"},
	} {
		var d diagnosis
		d.store.Value = store
		d.net = network.Facts{Networks: plan.Known[[]*virt.Network]{Value: tt.nets, Err: tt.netErr}, Routes: plan.Yes(tt.routes)}
		if c := w.networksCheck(d); c.State != tt.want || !strings.Contains(c.Detail, tt.says) {
			t.Errorf("%s: %+v", tt.name, c)
		}
	}
	d := diagnosis{net: network.Facts{Networks: plan.Yes[[]*virt.Network](nil), Routes: plan.Yes[[]network.Route](nil)}}
	d.store.Value = store
	d.left.Value = []root.NetManifest{{Wall: wall.Wall{Network: "gone"}}}
	if c := w.networksCheck(d); c.State != host.Bad || !strings.Contains(c.Detail, "gone") || !slices.Contains(c.Fix, "aivm host doctor --fix") {
		t.Errorf("a firewall that is left: %+v", c)
	}
	d.left = plan.Unknown[[]root.NetManifest](os.ErrPermission)
	if c := w.networksCheck(d); c.State != host.Unknown {
		t.Errorf("what is left is not known: %+v", c)
	}
}

// noEditor is a machine without editors.
func noEditor() editor.Env {
	e := editor.OSEnv()
	e.LookPath = func(string) (string, error) { return "", os.ErrNotExist }
	e.Stat = func(string) error { return os.ErrNotExist }
	e.Getenv = func(string) string { return "" }
	return e
}

// What --fix plans is what the checks call bad and nobody has to decide.
func TestPlanMend(t *testing.T) {
	w := newWorld(t)
	w.Editor = noEditor()
	ssh := filepath.Join(w.dir, "home", ".ssh")
	if err := os.MkdirAll(ssh, 0o777); err != nil {
		t.Fatal(err)
	}
	d := diagnosis{
		host: host.Facts{
			Arch: "amd64", CPUFlags: []string{"svm"}, KVM: host.KVMFact{Missing: true}, Systemd: true,
			OS: host.OSRelease{ID: "arch"}, Tools: map[string]string{},
		},
		exam: host.Examination{UID: os.Getuid(), SSHPaths: []host.PathFact{
			{Path: ssh, Exist: true, Mode: 0o777, UID: os.Getuid()},
			{Path: "/somebody/else's", Exist: true, Mode: 0o777, UID: os.Getuid() + 1},
		}},
		left: plan.Yes([]root.NetManifest{{Wall: wall.Wall{Network: "gone"}}}),
		vms:  []patient{{plan: []plan.Action{{ID: "ssh.config:a"}, {ID: "ssh.include"}}}, {plan: []plan.Action{{ID: "ssh.include"}}}},
	}
	d.host.Libvirtd.Name = "libvirtd"
	var ids []string
	var chmod plan.Action
	for _, a := range w.planMend(d).Actions {
		ids = append(ids, a.ID)
		if a.ID == "ssh.mode:"+ssh {
			chmod = a
		}
		if p, ok := a.Root.(root.Packages); ok && p.Manager != "pacman" {
			t.Errorf("%+v", p)
		}
		if m, ok := a.Root.(root.KVMModule); ok && m.Name != "kvm_amd" {
			t.Errorf("%+v", m)
		}
	}
	want := "host.packages host.service.libvirtd ssh.mode:" + ssh + " ssh.config:a ssh.include firewall.forget:gone host.kvm-module"
	if got := strings.Join(ids, " "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if err := chmod.Do(context.Background()); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(ssh); err != nil || st.Mode().Perm()&0o022 != 0 {
		t.Errorf("%v %v", st.Mode(), err)
	}
}

// A guest's server is asked for its first line only, and not waited for.
func TestBanner(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	says := make(chan string, 3)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			// Held: one nobody holds is closed when garbage is collected.
			t.Cleanup(func() { _ = c.Close() })
			_, _ = c.Write([]byte(<-says))
		}
	}()
	for say, want := range map[string]string{
		"SSH-2.0-OpenSSH_9.2p1 Debian\r\n": "SSH-2.0-OpenSSH_9.2p1 Debian",
		"SSH-2.0-\x1b[2Jx\r\n":             "SSH-2.0-\\x1b[2Jx",
	} {
		says <- say
		if got, err := (&Env{}).banner(t.Context(), l.Addr().String()); err != nil || got != want {
			t.Errorf("%q: %q, %v", say, got, err)
		}
	}
	says <- ""
	if _, err := (&Env{}).banner(t.Context(), l.Addr().String()); err == nil || !strings.Contains(err.Error(), "did not say") {
		t.Errorf("a silent one: %v", err)
	}
}
