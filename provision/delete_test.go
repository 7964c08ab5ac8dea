package provision

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/domain"
	"aivm.dev/aivm/provision/folders"
	"aivm.dev/aivm/provision/legacy03"
	"aivm.dev/aivm/provision/target"
	"aivm.dev/aivm/sshcfg"
)

// planDelete removes the parts of a VM that were found.
func TestPlanDelete(t *testing.T) {
	w := newWorld(t)
	store, err := w.Load()
	if err != nil {
		t.Fatal(err)
	}
	words, err := target.Recorded(store, "t")
	if err != nil {
		t.Fatal(err)
	}
	e := env(w)
	const mac = "52:54:00:00:00:01"
	disk := domain.DiskPath("/images", e.Key("t"))
	broken := errors.New("broken")
	nothing := []string{"vm.forget", "store.forget"}
	for name, tc := range map[string]struct {
		change func(*deletion, *remains)
		ids    []string
		err    error
	}{
		"nothing": {func(*deletion, *remains) {}, nothing, nil},
		"a domain that is off": {func(d *deletion, _ *remains) {
			d.domain = &virt.Domain{Name: "t", State: virt.Off, MAC: mac, Mark: virt.Mark{Exists: true, Owner: e.UID}, Stored: []virt.Disk{{File: disk, Serial: domain.DiskSerial}}}
		}, append([]string{"domain.delete"}, nothing...), nil},
		"an address": {func(d *deletion, r *remains) {
			d.domain = &virt.Domain{Name: "t", State: virt.Off, MAC: mac}
			r.network = plan.Yes(&virt.Network{Name: "n", Subnet: netip.MustParsePrefix("10.0.0.0/24"), Hosts: []virt.Reservation{{MAC: mac, Name: "t", IP: netip.MustParseAddr("10.0.0.9")}}})
		}, append([]string{"domain.delete", "network.unreserve:t"}, nothing...), nil},
		"another's address": {func(_ *deletion, r *remains) {
			r.network = plan.Yes(&virt.Network{Name: "n", Subnet: netip.MustParsePrefix("10.0.0.0/24"), Hosts: []virt.Reservation{{MAC: mac, Name: "u", IP: netip.MustParseAddr("10.0.0.9")}}})
		}, nothing, nil},
		"of 0.3": {func(d *deletion, r *remains) {
			d.domain = &virt.Domain{Name: "t", State: virt.Off, MAC: mac}
			r.adopted = legacy03.Remains{Adopted: true, Address: "/x/t.ip"}
		}, append([]string{"domain.delete", "adopt.forget", "adopt.unbind"}, nothing...), nil},
		"folders": {func(_ *deletion, r *remains) {
			r.exported = plan.Yes(folders.ExportFacts{Tokens: []string{"a", "b"}, HasDir: true})
		}, append([]string{"share.unbind:a", "share.unbind:b", "share.unexport"}, nothing...), nil},
		"ssh": {func(_ *deletion, r *remains) {
			r.ssh = sshcfg.Remains{Layout: e.SSH, VM: "t", Alias: "t", Files: []string{"/x/t.conf"}, Others: true}
		}, append([]string{"ssh.remove:t"}, nothing...), nil},
		"an unknown network":  {func(_ *deletion, r *remains) { r.network.Err = broken }, nil, broken},
		"unknown folders":     {func(_ *deletion, r *remains) { r.exported.Err = broken }, nil, broken},
		"unknown files":       {func(_ *deletion, r *remains) { r.ssh.Err = broken }, nil, broken},
		"the network's first": {func(_ *deletion, r *remains) { r.network.Err, r.ssh.Err = broken, errors.New("other") }, nil, broken},
	} {
		d, r := &deletion{target: words}, remains{ssh: sshcfg.Remains{Layout: e.SSH, VM: "t", Alias: "t", Others: true}}
		tc.change(d, &r)
		p, err := e.planDelete(t.Context(), d, r)
		if !errors.Is(err, tc.err) {
			t.Errorf("%s: %v", name, err)
		}
		if got := idsOf(p.Actions); tc.err == nil && !slices.Equal(got, tc.ids) {
			t.Errorf("%s:\n got %s\nwant %s", name, strings.Join(got, " "), strings.Join(tc.ids, " "))
		}
		for _, a := range p.Actions {
			if a.Consent != plan.Typed && !strings.HasPrefix(a.ID, "ssh.") && err == nil {
				t.Errorf("%s: %s is done with %q", name, a.ID, a.Consent)
			}
		}
	}
	if len(w.Ops) > 0 {
		t.Errorf("planning did %v", w.Ops)
	}
}

func idsOf(as []plan.Action) (out []string) {
	for _, a := range as {
		out = append(out, a.ID)
	}
	return out
}
