package legacy03

import (
	"errors"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/loop/looptest"
	"aivm.dev/aivm/provision/target"
	"aivm.dev/aivm/sshcfg"
)

func ids(as []plan.Action) (out []string) {
	for _, a := range as {
		out = append(out, a.ID)
	}
	return out
}

// found returns a VM of 0.3 whose network, reservation and records still have to be adopted,
// on a machine whose ssh configuration has nothing of aivm.
func found(t *testing.T, e Part) *adoption {
	t.Helper()
	store, err := e.Load()
	if err != nil {
		t.Fatal(err)
	}
	w, err := target.Recorded(store, "t")
	if err != nil {
		t.Fatal(err)
	}
	w.Record.VM.User = "agent"
	k, err := sshcfg.NewHostKey()
	if err != nil {
		t.Fatal(err)
	}
	return &adoption{
		w:       w,
		domain:  &virt.Domain{Name: "t", UUID: "u", MAC: "52:54:00:00:00:01", Network: "n", Stored: []virt.Disk{{File: "/images/t/t.qcow2"}}},
		network: &virt.Network{Name: "n"},
		ip:      netip.MustParseAddr("10.77.0.101"),
		key:     k.Public,
		ssh: sshEntry{
			keys:   plan.Yes([]sshcfg.Identity{{Path: "/k"}}),
			config: sshcfg.Facts{Layout: e.SSH, DirMode: plan.Yes(fs.FileMode(0o700))},
		},
	}
}

func TestPlanAdoption(t *testing.T) {
	w := looptest.New(t)
	e := For(w.Loop)
	broken := errors.New("broken")
	block := []byte("# >>> aivm:t >>>\nHost t\n# <<< aivm:t <<<\n")
	for name, tc := range map[string]struct {
		change func(*adoption)
		ids    string
		err    error
	}{
		"all": {func(*adoption) {}, "adopt.state adopt.network adopt.reserve ssh.config:t ssh.include adopt.domain", nil},
		"a network of aivm's": {func(a *adoption) {
			a.network.Mark = virt.Mark{Exists: true, Owner: e.UID}
		}, "adopt.state adopt.reserve ssh.config:t ssh.include adopt.domain", nil},
		"reserved": {func(a *adoption) {
			a.network.Hosts = []virt.Reservation{{MAC: "52:54:00:00:00:01", IP: a.ip}}
		}, "adopt.state adopt.network ssh.config:t ssh.include adopt.domain", nil},
		"its block in the configuration": {func(a *adoption) {
			a.ssh.config.Config = plan.Yes(sshcfg.File{Path: "/c", Target: "/c", Exists: true, Data: block})
		}, "adopt.state adopt.network adopt.reserve ssh.config:t ssh.include ssh.legacy:t adopt.domain", nil},
		"a configuration that cannot be read": {func(a *adoption) {
			a.ssh.config.Config.Err = broken
		}, "adopt.state adopt.network adopt.reserve ssh.config:t adopt.domain", nil},
		"another network": {func(a *adoption) {
			a.network.Name = "m"
		}, "adopt.state adopt.network adopt.reserve ssh.config:t ssh.include adopt.records adopt.domain", nil},
		"no keys":          {func(a *adoption) { a.ssh.keys.Err = broken }, "", broken},
		"a guest's config": {func(a *adoption) { a.ssh.config.Guarded = sshcfg.ErrGuest }, "", sshcfg.ErrGuest},
		"a name that is taken": {func(a *adoption) {
			a.ssh.config.Clashes = []sshcfg.Clash{{File: "/c", Line: 1}}
		}, "", sshcfg.ErrAliasTaken},
	} {
		a := found(t, e)
		tc.change(a)
		p, err := e.planAdoption(a)
		if !errors.Is(err, tc.err) {
			t.Errorf("%s: %v", name, err)
		}
		if got := strings.Join(ids(p.Actions), " "); tc.err == nil && got != tc.ids {
			t.Errorf("%s:\n got %s\nwant %s", name, got, tc.ids)
		}
		if err == nil && !strings.Contains(p.Actions[0].Why, ssh.FingerprintSHA256(a.key)) {
			t.Errorf("%s: the host key is not named: %s", name, p.Actions[0].Why)
		}
	}
	if len(w.Ops) > 0 {
		t.Errorf("planning did %v", w.Ops)
	}
}

func TestPlanDeleteAdopted(t *testing.T) {
	e := For(looptest.New(t).Loop)
	a := found(t, e)
	a.w.Record.Paths.BaseDir = "/images"
	a.w.Record.Image.CacheName = "noble.img"
	a.domain.Stored = []virt.Disk{{File: "/images/t/images/t.qcow2"}, {File: "/images/t/cloud-init/seed.iso"}, {File: "/home/u/data.img"}}
	if as := e.PlanDeleteAdopted(a.w, nil, a.domain, Remains{}); as != nil {
		t.Errorf("not adopted: %v", ids(as))
	}
	as := e.PlanDeleteAdopted(a.w, nil, a.domain, Remains{Adopted: true})
	if got := ids(as); !slices.Equal(got, []string{"adopt.delete:/images/t/images", "adopt.delete:/images/t/cloud-init", "adopt.unbind"}) {
		t.Error(got)
	}
	if want := []string{"rm /images/t/images/t.qcow2", "rm /images/t/images/noble.img"}; !slices.Equal(as[0].Shows, want) {
		t.Error(as[0].Shows)
	}
	as = e.PlanDeleteAdopted(a.w, nil, &virt.Domain{}, Remains{Adopted: true, Address: "/c/t.ip"})
	if got := ids(as); !slices.Equal(got, []string{"adopt.forget", "adopt.unbind"}) || as[0].Shows[0] != "rm /c/t.ip" {
		t.Error(got)
	}
}
