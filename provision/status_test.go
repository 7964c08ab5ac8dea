package provision

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/checks"
	"aivm.dev/aivm/provision/domain"
	"aivm.dev/aivm/provision/folders"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/loop/looptest"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/state"
	"aivm.dev/aivm/provision/target"
)

func statusOf(w *looptest.World) Status {
	w.T.Helper()
	st, err := env(w).Status(w.T.Context(), "t", false)
	if err != nil {
		w.T.Fatal(err)
	}
	return st
}

func checkOf(st Status, id string) host.Check {
	i := slices.IndexFunc(st.Checks, func(c host.Check) bool { return strings.HasPrefix(c.ID, id) })
	if i < 0 {
		return host.Check{}
	}
	return st.Checks[i]
}

// Status lists the mounted folders as writable, recorded or not.
func TestWritableFolders(t *testing.T) {
	w := newWorld(t)
	writable, off, stale, read := w.MakeFolder("mine"), w.MakeFolder("off"), w.MakeFolder("left over"), w.MakeFolder("read")
	w.WriteConfig(writable, off)
	if st := statusOf(w); len(st.Wall.Writable) != 0 || !strings.Contains(st.Wall.Sentence, "can write no folder") || checkOf(st, "stray").ID != "" {
		t.Errorf("nothing is mounted: %+v", st)
	}
	w.AddShare(writable, "rw,nosuid,nodev,idmapped")
	w.AddShare(stale, "rw,nosuid,nodev,idmapped")
	w.AddShare(read, "ro,nosuid,nodev,idmapped")
	gone := "gone-0a2da8d45b3d514bb0f997bf"
	w.AddMount(gone, "0:998 /p//deleted TOKEN rw,nosuid,nodev - ext4 none rw")
	st := statusOf(w)
	point := "/var/lib/aivm/export/4321-t/"
	want := []string{point + gone, stale, writable}
	slices.Sort(st.Wall.Writable)
	slices.Sort(want)
	if !slices.Equal(st.Wall.Writable, want) {
		t.Errorf("writable %q, want %q", st.Wall.Writable, want)
	}
	for _, c := range []struct{ token, detail, fix string }{
		{share.Token(stale), "read and write " + stale, "aivm attach '" + stale + "' --vm t"},
		{share.Token(read), "can read " + read, "aivm attach " + read + " --vm t --access ro"},
		{gone, point + gone, "sudo umount " + point + gone},
	} {
		got := checkOf(st, "stray:"+c.token)
		if got.State != host.Bad || !strings.Contains(got.Detail, c.detail) || got.Fix[0] != c.fix || !strings.HasPrefix(got.Fix[len(got.Fix)-1], "sudo umount ") {
			t.Errorf("%s: %+v", c.token, got)
		}
	}
	if c := checkOf(st, "folders"); c.State != host.Bad || !strings.Contains(c.Detail, off+" is not mounted for the VM") || !slices.Equal(c.Fix, []string{"aivm attach " + off + " --vm t"}) {
		t.Errorf("%+v", c)
	}
	l, err := env(w).Listing(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, f := range l.Folders {
		got[f.HostPath] = f.State + " " + f.Access + " " + f.VM
	}
	if w := map[string]string{writable: "ok rw t", off: "detached rw t", stale: "detaching rw t", read: "detaching ro t", point + gone: "detaching rw t"}; fmt.Sprint(got) != fmt.Sprint(w) {
		t.Errorf("listed %v, want %v", got, w)
	}
}

// If the mounts cannot be read, the writable folders are unknown, not none.
func TestUnknownWritableFolders(t *testing.T) {
	w := newWorld(t)
	w.WriteConfig(w.MakeFolder("p"))
	w.MountLines += "nonsense\n"
	st := statusOf(w)
	if c := checkOf(st, "folders"); c.State != host.Unknown || !strings.Contains(st.Wall.Sentence, "is not known") {
		t.Errorf("%+v %q", c, st.Wall.Sentence)
	}
}

// status prints its checks even if the state file is damaged.
func TestStatusWithADamagedStateFile(t *testing.T) {
	w := newWorld(t)
	if err := os.MkdirAll(w.SSH.VMDir("t"), 0o700); err != nil {
		t.Fatal(err)
	}
	path := w.State().InstancePath("t")
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := checkOf(statusOf(w), "address")
	if c.State != host.Bad || !strings.Contains(c.Detail, "damaged") || c.Fix[0] != "mv "+path+" "+path+".damaged" {
		t.Errorf("%+v", c)
	}
	if c := checkOf(statusOf(w), "ssh"); c.State == host.OK {
		t.Errorf("%+v", c)
	}
}

func TestVMCheckReadsTheMark(t *testing.T) {
	w := newWorld(t)
	tgt := &target.Target{Name: "t"}
	for mark, detail := range map[virt.Mark]string{{Exists: true, Owner: 1}: "another user (uid 1)", {}: "aivm neither created nor adopted"} {
		f := &loop.Facts{Domain: domain.Facts{Domain: plan.Yes(&virt.Domain{Name: "t", State: virt.Running, Mark: mark})}}
		if c := checks.For(w.Loop).VMCheck(tgt, f); c.State != host.Bad || !strings.Contains(c.Detail, detail) {
			t.Errorf("%+v: %+v", mark, c)
		}
	}
	ownMark := virt.Mark{Exists: true, Owner: 4321}
	for state, want := range map[virt.State]host.State{virt.Running: host.OK, virt.Off: host.Bad} {
		f := &loop.Facts{Domain: domain.Facts{Domain: plan.Yes(&virt.Domain{Name: "t", State: state, Mark: ownMark})}}
		if c := checks.For(w.Loop).VMCheck(tgt, f); c.State != want {
			t.Errorf("%s: %+v", state, c)
		}
	}
}

// An address is correct if the guest answers there or libvirt reserves it.
func TestAddressCheck(t *testing.T) {
	w := newWorld(t)
	tgt := plan.Yes(&state.Instance{Address: "10.7.0.10", MAC: "52:54:00:0a:00:01"})
	network := func(mac, ip string) plan.Known[*virt.Network] {
		return plan.Yes(&virt.Network{Name: "n", Hosts: []virt.Reservation{{MAC: mac, IP: netip.MustParseAddr(ip)}}})
	}
	right := network("52:54:00:0A:00:01", "10.7.0.10")
	ownDomain := domain.Facts{Domain: plan.Yes(&virt.Domain{State: virt.Running, Mark: virt.Mark{Exists: true, Owner: 4321}})}
	for _, c := range []struct {
		name string
		f    loop.Facts
		inst plan.Known[*state.Instance]
		net  plan.Known[*virt.Network]
		want host.State
	}{
		{"answers", loop.Facts{Conn: &looptest.FakeGuest{}}, tgt, plan.Unknown[*virt.Network](virt.ErrDenied), host.OK},
		{"reserved", loop.Facts{}, tgt, right, host.OK},
		{"libvirt unknown", loop.Facts{}, tgt, plan.Unknown[*virt.Network](virt.ErrDenied), host.Unknown},
		{"another", loop.Facts{}, tgt, network("52:54:00:0a:00:01", "10.7.0.11"), host.Bad},
		{"reserved for another", loop.Facts{}, tgt, network("52:54:00:0a:00:02", "10.7.0.10"), host.Bad},
		{"no network", loop.Facts{}, tgt, plan.Yes[*virt.Network](nil), host.Bad},
		{"none yet", loop.Facts{}, plan.Yes[*state.Instance](nil), right, host.Skipped},
		{"no state file", loop.Facts{Domain: ownDomain}, plan.Yes[*state.Instance](nil), right, host.Bad},
	} {
		if got := checks.For(w.Loop).AddressCheck(&target.Target{Name: "t"}, &c.f, c.inst, c.net); got.State != c.want {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}

func TestSSHCheck(t *testing.T) {
	on := domain.Facts{Domain: plan.Yes(&virt.Domain{State: virt.Running})}
	off := domain.Facts{Domain: plan.Yes[*virt.Domain](nil)}
	for _, c := range []struct {
		f    loop.Facts
		want host.State
	}{
		{loop.Facts{Domain: on, Conn: &looptest.FakeGuest{}}, host.OK},
		{loop.Facts{Domain: on, Conn: startupGuest{bypass: true}}, host.Bad},
		{loop.Facts{Domain: on, ConnErr: &guest.StartupError{}}, host.Bad},
		{loop.Facts{Domain: on, ConnErr: guest.ErrUnreachable}, host.Bad},
		{loop.Facts{Domain: on, ConnErr: loop.ErrNotTried}, host.Skipped},
		{loop.Facts{Domain: off, ConnErr: guest.ErrUnreachable}, host.Skipped},
		{loop.Facts{Domain: off, ConnErr: fmt.Errorf("no: %w", &guest.HostKeyError{})}, host.Bad},
	} {
		got := checks.SSHCheck(&target.Target{Name: "t"}, &c.f)
		if (errors.Is(c.f.ConnErr, guest.ErrUnreachable) || c.f.Conn != nil) && c.want == host.Bad && len(got.Fix) == 0 || got.State != c.want {
			t.Errorf("%v: %+v", c.f.ConnErr, got)
		}
	}
}

// Folders that are mounted on the host may be missing in the guest: after a reboot of the guest,
// only the opened one is mounted there.
func TestFoldersCheckAsksTheGuest(t *testing.T) {
	w := newWorld(t)
	p, q := w.MakeFolder("p"), w.MakeFolder("q")
	w.WriteConfig(p, q)
	for _, f := range []string{p, q} {
		w.AddShare(f, "rw,nosuid,nodev,idmapped")
	}
	store, err := w.Load()
	if err != nil {
		t.Fatal(err)
	}
	tgt := &target.Target{Name: "t"}
	running := domain.Facts{Domain: plan.Yes(&virt.Domain{State: virt.Running})}
	for _, c := range []struct {
		name, answer, detail string
		f                    *loop.Facts
		want                 host.State
	}{
		{"both", looptest.GuestAnswer(t, 1000, p, q), p + ", " + q, &loop.Facts{Conn: &looptest.FakeGuest{}}, host.OK},
		{"one", looptest.GuestAnswer(t, 1000, p), q + ": nothing is mounted there", &loop.Facts{Conn: &looptest.FakeGuest{}}, host.Bad},
		{"owner", looptest.GuestAnswer(t, 65534, p, q), "owner changed", &loop.Facts{Conn: &looptest.FakeGuest{}}, host.Bad},
		{"silent", "", "could not be asked", &loop.Facts{ConnErr: guest.ErrUnreachable, Domain: running}, host.Unknown},
		{"off", "", "does not run", &loop.Facts{ConnErr: loop.ErrNotTried}, host.Skipped},
	} {
		if g, ok := c.f.Conn.(*looptest.FakeGuest); ok {
			g.Share = c.answer
			if err = env(w).Probe(t.Context(), g, &target.Target{Name: "t", Store: store}, c.f); err != nil {
				t.Fatal(err)
			}
		}
		got := folders.For(w.Loop).ObserveStatus(store.Config, tgt, c.f).Check(tgt, c.f)
		if got.State != c.want || !strings.Contains(got.Detail, c.detail) {
			t.Errorf("%s: %+v", c.name, got)
		}
		if c.name == "one" && !slices.Equal(got.Fix, []string{"aivm attach " + q + " --vm t"}) {
			t.Errorf("%s: fix %q", c.name, got.Fix)
		}
	}
}
