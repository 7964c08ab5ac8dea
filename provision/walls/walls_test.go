package walls

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/root/nftread"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/internal/wall"
	"aivm.dev/aivm/provision/firewall"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/loop/looptest"
	"aivm.dev/aivm/provision/state"
	"aivm.dev/aivm/provision/target"
)

// fakeFirewall has the firewall state that a test sets.
type fakeFirewall struct {
	current, known bool
	rules          firewall.Facts
	ruleset        string
	asked          []string
	manifests      []root.NetManifest
}

func (k *fakeFirewall) Hooks() (bool, bool, error) { return k.current, k.known, nil }

func (k *fakeFirewall) Rules(_ context.Context, network string, sudo bool) firewall.Facts {
	k.asked = append(k.asked, network)
	if !sudo && k.rules.Kernel.Err == nil && k.rules.Manifest.Value != nil {
		f := k.rules
		f.Kernel = plan.Unknown[nftread.Content](errors.New("only root can read the firewall's rules"))
		return f
	}
	return k.rules
}

func (k *fakeFirewall) Manifests() ([]root.NetManifest, error) {
	return slices.Clone(k.manifests), nil
}

func (k *fakeFirewall) Ruleset(context.Context, bool) ([]byte, error) { return []byte(k.ruleset), nil }

// firewallWorld is a world whose network "n" has its rules loaded, with the VM t in it.
func firewallWorld(t *testing.T) (*looptest.World, *fakeFirewall, *target.Target) {
	t.Helper()
	w := looptest.New(t)
	n := config.Network{Name: "n", Network: config.DefaultConfig().Defaults.Network, Firewall: config.DefaultConfig().Defaults.Firewall}
	n.Network.Name = "n"
	built, err := firewall.Want(n.Firewall, n.Network, []wall.Guest{{MAC: "52:54:00:00:00:01", IP: netip.MustParseAddr("10.77.0.10")}})
	if err != nil {
		t.Fatal(err)
	}
	k := &fakeFirewall{current: true, known: true, ruleset: `{"nftables":[]}`, rules: firewall.Facts{
		Manifest: plan.Yes(&root.NetManifest{Wall: built, Script: wall.Digest(built, nil), Digest: "d"}), Kernel: plan.Yes(nftread.Content{Digest: "d"}),
	}}
	w.Firewall = k
	return w, k, &target.Target{Name: "t", Network: n, Guest: true, Boot: true}
}

// runningGuest returns the facts of the running VM t.
func runningGuest() *loop.Facts {
	return &loop.Facts{Inst: &state.Instance{MAC: "52:54:00:00:00:01", Address: "10.77.0.10"}}
}

func TestPlanUse(t *testing.T) {
	ids := func(as []plan.Action) string {
		var out []string
		for _, a := range as {
			out = append(out, a.ID)
		}
		return strings.Join(out, " ")
	}
	for _, c := range []struct {
		name   string
		change func(*looptest.World, *fakeFirewall, *target.Target, *loop.Facts)
		want   string // ids of the actions
		err    string
		says   string
	}{
		{name: "in place", change: func(*looptest.World, *fakeFirewall, *target.Target, *loop.Facts) {}},
		{name: "flushed", change: func(_ *looptest.World, k *fakeFirewall, _ *target.Target, _ *loop.Facts) {
			k.rules.Kernel.Value.Digest = ""
		}, want: "firewall.rules:n"},
		{name: "flushed, and an old program in the hooks", change: func(_ *looptest.World, k *fakeFirewall, _ *target.Target, _ *loop.Facts) {
			k.rules.Kernel.Value.Digest, k.current = "", false
		}, want: "host.hooks firewall.rules:n"},
		{name: "altered", change: func(_ *looptest.World, k *fakeFirewall, _ *target.Target, _ *loop.Facts) {
			k.rules.Kernel.Value.Digest = "x"
		}, want: "firewall.rules:n"},
		{name: "a VM the rules do not know", change: func(_ *looptest.World, _ *fakeFirewall, _ *target.Target, f *loop.Facts) {
			f.Inst.Address = "10.77.0.11"
		}, want: "firewall.rules:n"},
		{name: "removed, and libvirt does not answer which guests there are", change: func(_ *looptest.World, k *fakeFirewall, _ *target.Target, _ *loop.Facts) {
			k.rules.Manifest.Value = nil
		}, err: "libvirt"},
		{name: "unreadable", change: func(_ *looptest.World, k *fakeFirewall, _ *target.Target, _ *loop.Facts) {
			k.rules.Kernel.Err = errors.New("no netlink here")
		}, err: "no netlink here"},
		{name: "unreadable, once", change: func(w *looptest.World, k *fakeFirewall, _ *target.Target, _ *loop.Facts) {
			k.rules.Kernel.Err, w.NoFirewall = errors.New("no netlink here"), true
		}, says: "this once"},
		{name: "sudo would ask, nobody there", change: func(_ *looptest.World, k *fakeFirewall, _ *target.Target, _ *loop.Facts) {
			k.rules.Kernel.Err = firewall.ErrPasswordNeeded
		}, err: "sudo would ask"},
		{name: "sudo needsPassword a person", change: func(w *looptest.World, k *fakeFirewall, _ *target.Target, _ *loop.Facts) {
			k.rules.Kernel.Err, w.InTTY = firewall.ErrPasswordNeeded, true
		}, want: "firewall.rules:n", says: "NOPASSWD: /usr/local/libexec/aivm/aivm root-hook check n"},
		{name: "switched off", change: func(_ *looptest.World, _ *fakeFirewall, w *target.Target, _ *loop.Facts) {
			w.Network.Firewall.Enabled = false
		}, want: "firewall.remove:n"},
		{name: "switched off and gone", change: func(_ *looptest.World, k *fakeFirewall, w *target.Target, _ *loop.Facts) {
			w.Network.Firewall.Enabled, k.rules.Manifest.Value = false, nil
		}},
		{name: "ports of 0.3", change: func(_ *looptest.World, _ *fakeFirewall, w *target.Target, _ *loop.Facts) {
			w.Network.Firewall.AllowTCPPorts = []string{"8080"}
		}, want: "firewall.rules:n", says: "allow_lan"},
		{name: "a bad endpoint", change: func(_ *looptest.World, _ *fakeFirewall, w *target.Target, _ *loop.Facts) {
			w.Network.Firewall.AllowLAN = []string{"x"}
		}, err: "allow_lan"},
		{name: "a flow table", change: func(_ *looptest.World, k *fakeFirewall, _ *target.Target, _ *loop.Facts) {
			k.rules.Kernel.Value.Flowtables = []nftread.Flowtable{{Table: "t", Name: "fast", Devices: []string{"virbr-aivm"}}}
		}, says: "flow table fast"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, k, w := firewallWorld(t)
			f := runningGuest()
			c.change(e, k, w, f)
			For(e.Loop).ObserveForUse(t.Context(), w.Network, f)
			p, err := For(e.Loop).PlanUse(w.Network, f)
			e.PrintNotes(p)
			as := p.Actions
			if c.err != "" {
				var ue *ui.Error
				if err == nil || !strings.Contains(err.Error(), c.err) || !errors.As(err, &ue) || len(ue.HintLines()) == 0 {
					t.Fatalf("error %v, want %q", err, c.err)
				}
				return
			}
			if err != nil || ids(as) != c.want {
				t.Errorf("planned %q, want %q (%v)", ids(as), c.want, err)
			}
			if !strings.Contains(e.Err.String(), c.says) || c.says == "" && e.Err.Len() > 0 {
				t.Errorf("printed %q, want %q", e.Err.String(), c.says)
			}
			if c.want != "" && as[len(as)-1].Consent != plan.None && as[len(as)-1].Consent != "" && c.want != "firewall.remove:n" {
				t.Error("approved rules need consent again")
			}
		})
	}
}

// The note about sudoers is printed once for each network, and not by a dry run.
func TestOfferedOnce(t *testing.T) {
	e, k, w := firewallWorld(t)
	k.rules.Kernel.Err, e.InTTY, e.DryRun = firewall.ErrPasswordNeeded, true, true
	for i, want := range []bool{false, true, false} {
		e.Err.Reset()
		e.ResetRun()
		f := runningGuest()
		For(e.Loop).ObserveForUse(t.Context(), w.Network, f)
		p, err := For(e.Loop).PlanUse(w.Network, f)
		if err != nil {
			t.Fatal(err)
		}
		e.PrintNotes(p)
		if got := strings.Contains(e.Err.String(), "NOPASSWD"); got != want {
			t.Errorf("run %d: offered: %v", i, got)
		}
		e.DryRun = false
	}
}

func TestSentenceOfStatus(t *testing.T) {
	e, k, w := firewallWorld(t)
	_ = e
	if got := AccessSentence(w.Network, &k.rules); !strings.HasPrefix(got, "reaches the internet and DHCP") {
		t.Errorf("%s", got)
	}
	k.rules.Kernel.Value.Digest = ""
	if got := AccessSentence(w.Network, &k.rules); !strings.Contains(got, "this machine and its networks (the rules are missing") {
		t.Errorf("%s", got)
	}
	k.rules.Kernel.Err = errors.New("only root")
	if got := AccessSentence(w.Network, &k.rules); !strings.Contains(got, "unless the rules were changed since: only root") {
		t.Errorf("%s", got)
	}
	w.Network.Firewall.Enabled = false
	if got := AccessSentence(w.Network, &k.rules); !strings.Contains(got, "switched off") {
		t.Errorf("%s", got)
	}
}

// A refusal by sudo is told apart from a failure of the program that reads the rules.
func TestRulesBySudo(t *testing.T) {
	bin := t.TempDir()
	t.Setenv("PATH", bin)
	for _, c := range []struct {
		script, digest, err string
		needsPassword       bool
	}{
		{script: "echo '{\"digest\":\"abc\"}'", digest: "abc"},
		{script: "echo 'sudo: a password is required' >&2; exit 1", err: "a password is required", needsPassword: true},
		{script: "echo 'error: netlink' >&2; exit 2", err: "netlink"},
		{script: "echo rubbish", err: "invalid character"},
		{script: "", err: "sudo is not installed"},
	} {
		p := filepath.Join(bin, "sudo")
		_ = os.Remove(p)
		if c.script != "" {
			if err := os.WriteFile(p, []byte("#!/bin/sh\n[ \"$1 $2\" = '-n --' ] || exit 9\n"+c.script+"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		k := rulesBySudo(t.Context(), "n")
		if k.Value.Digest != c.digest || (k.Err == nil) != (c.err == "") || k.Err != nil && !strings.Contains(k.Err.Error(), c.err) || errors.Is(k.Err, firewall.ErrPasswordNeeded) != c.needsPassword {
			t.Errorf("%q: %+v", c.script, k)
		}
	}
}

// Only firewalls of this user whose network is gone are removed.
func TestStaleFirewalls(t *testing.T) {
	w, k, _ := firewallWorld(t)
	w.UID = 1000
	manifest := func(network, uuid string, owner int) root.NetManifest {
		return root.NetManifest{Owner: owner, UUID: uuid, Wall: wall.Wall{Network: network}}
	}
	k.manifests = []root.NetManifest{
		manifest("here", "1", 1000), manifest("gone", "2", 1000), manifest("others", "3", 1001),
		manifest("taken", "4", 1000), manifest("recreated", "5", 1000), manifest("older", "", 1000),
	}
	mark := virt.Mark{Exists: true, Owner: 1000}
	stale, err := For(w.Loop).StaleFirewalls([]*virt.Network{
		{Name: "here", UUID: "1"}, {Name: "taken", UUID: "40"}, {Name: "recreated", UUID: "50", Mark: mark}, {Name: "older", UUID: "6", Mark: mark},
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, a := range PlanRemoveStale(stale) {
		got = append(got, a.ID)
		if op, ok := a.Root.(root.Nft); !ok || !op.Remove || a.Consent != plan.None {
			t.Errorf("%+v", a)
		}
	}
	if s := strings.Join(got, " "); s != "firewall.forget:gone firewall.forget:taken" {
		t.Errorf("removes %q", s)
	}
}
