package domain

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
)

func ids(as []plan.Action) string {
	var out []string
	for _, a := range as {
		out = append(out, a.ID)
	}
	return strings.Join(out, " ")
}

func wanted() Wanted {
	return Wanted{
		Spec: spec("qemu"), Key: "1000-work", DiskGB: 10, BaseDir: "/d", Boot: true,
		Base: func() (Base, error) {
			return Base{SHA256: "ab", Format: "qcow2", Open: func() (io.ReadCloser, error) { return nil, errors.New("not here") }}, nil
		},
		Seed: func() ([]byte, error) { return []byte("seed"), nil },
	}
}

func pool(volumes ...string) *virt.Pool {
	p := &virt.Pool{Name: "aivm", Path: "/d", Active: true, Volumes: map[string]virt.Volume{}}
	for _, v := range volumes {
		p.Volumes[v] = virt.Volume{Name: v, Path: "/d/" + v}
	}
	return p
}

// opened is a pool whose directory has the mode of an older aivm.
func opened(p *virt.Pool) *virt.Pool {
	p.Open = true
	return p
}

func dom(state virt.State, owner int) *virt.Domain {
	return &virt.Domain{Name: "work", UUID: "u", State: state, Mark: virt.Mark{Exists: owner >= 0, Owner: owner}}
}

func TestPlanVM(t *testing.T) {
	off := &virt.Pool{Name: "aivm", Path: "/d"}
	for _, c := range []struct {
		name       string
		d          *virt.Domain
		p          *virt.Pool
		want, says string
	}{
		{"from nothing", nil, nil, "pool.ensure image.upload disk.create seed.create domain.define domain.start", ""},
		{"image there", nil, pool("base-ab", "base-ab.done"), "disk.create seed.create domain.define domain.start", ""},
		{"half an image", nil, pool("base-ab"), "image.upload disk.create seed.create domain.define domain.start", ""},
		{"a disk that is there is used", nil, pool("base-ab", "base-ab.done", "1000-work.qcow2"), "seed.create domain.define domain.start", ""},
		{"off", dom(virt.Off, 1000), pool("1000-work.qcow2"), "domain.start", ""},
		{"paused", dom(virt.Paused, 1000), pool("1000-work.qcow2"), "domain.start", ""},
		{"another VM, in an open pool", nil, opened(pool("base-ab", "base-ab.done")), "pool.close disk.create seed.create domain.define domain.start", ""},
		{"off, in an open pool", dom(virt.Off, 1000), opened(pool("1000-work.qcow2")), "pool.close domain.start", ""},
		{"running, in an open pool", dom(virt.Running, 1000), opened(pool("1000-work.qcow2")), "", ""},
		{"running", dom(virt.Running, 1000), nil, "", ""},
		{"its disk is gone", dom(virt.Off, 1000), pool(), "", "the disk of VM \"work\" is missing"},
		// The volumes of an inactive pool are not missing.
		{"its pool is off", dom(virt.Off, 1000), off, "pool.ensure", ""},
		{"its pool is undefined", dom(virt.Off, 1000), nil, "pool.ensure", ""},
		{"a stranger's", dom(virt.Off, -1), pool(), "", "aivm neither created nor adopted"},
		{"another user's", dom(virt.Running, 7), pool(), "", "belongs to another user (uid 7)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			as, err := Plan(Facts{Domain: plan.Yes(c.d), Pool: plan.Yes(c.p)}, wanted(), "aivm", nil)
			if (err != nil) != (c.says != "") || err != nil && !strings.Contains(err.Error(), c.says) || ids(as) != c.want {
				t.Errorf("%q %v", ids(as), err)
			}
		})
	}
	unread := plan.Unknown[*virt.Domain](errors.New("no answer"))
	if _, err := Plan(Facts{Domain: unread, Pool: plan.Yes(pool())}, wanted(), "aivm", nil); err == nil || !strings.Contains(err.Error(), "no answer") {
		t.Errorf("unreadable counted as absent: %v", err)
	}
}

func TestPlanStop(t *testing.T) {
	for _, c := range []struct {
		state virt.State
		force bool
		want  string
	}{
		{virt.Off, false, ""},
		{virt.Running, false, "domain.shutdown"},
		{virt.Running, true, "domain.destroy"},
		{virt.Paused, false, "domain.resume domain.shutdown"},
		{virt.Paused, true, "domain.destroy"},
	} {
		if got := ids(PlanStop(dom(c.state, 1000), c.force, nil)); got != c.want {
			t.Errorf("%s, force %v: %q", c.state, c.force, got)
		}
	}
}

func TestPlanRemoveSeed(t *testing.T) {
	seeded := dom(virt.Running, 1000)
	seeded.Stored = []virt.Disk{{Serial: SeedSerial}}
	for _, c := range []struct {
		name string
		d    *virt.Domain
		p    plan.Known[*virt.Pool]
		want string
	}{
		{"attached", seeded, plan.Yes(pool("1000-work.seed")), "seed.remove"},
		{"detached, file left by a kill", dom(virt.Running, 1000), plan.Yes(pool("1000-work.seed")), "seed.remove"},
		{"gone", dom(virt.Running, 1000), plan.Yes(pool()), ""},
	} {
		if got := ids(PlanRemoveSeed(Facts{Domain: plan.Yes(c.d), Pool: c.p}, "work", "1000-work", "aivm", nil)); got != c.want {
			t.Errorf("%s: %q", c.name, got)
		}
	}
}

// The commands in hints use the libvirt that has the domain.
func TestTakenNameIsShownWhereItIs(t *testing.T) {
	own, err := virt.ParseURI("qemu:///system?socket=/run/own")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []virt.Domain{
		{Name: "a", Libvirt: own},
		{Name: "a", Libvirt: own, Mark: virt.Mark{Exists: true, Owner: 1}},
	} {
		err := CheckOwner(&d, 2)
		var ue *ui.Error
		if !errors.As(err, &ue) || !slices.ContainsFunc(ue.Hints, func(h ui.Hint) bool { return strings.HasPrefix(h.Command, own.Virsh("")) }) {
			t.Errorf("%+v", err)
		}
	}
}
