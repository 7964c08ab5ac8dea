package machine

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/network"
	"aivm.dev/aivm/provision/state"
	"aivm.dev/aivm/provision/target"
)

// Choose and InstanceFor return what a plan decides about a VM, and change neither the target nor
// the facts.
func TestChoose(t *testing.T) {
	c := config.DefaultConfig()
	net := c.NewNetwork("aivm-net")
	record := c.NewVM("t", net.Name)
	libvirts := &virt.Network{Name: "aivm-net", Mark: virt.Mark{Exists: true, Owner: 7}, Bridge: "virbr-x", Subnet: netip.MustParsePrefix("10.9.8.0/24"), Gateway: netip.MustParseAddr("10.9.8.1")}
	existing := &virt.Domain{Name: "t", UUID: "u", MAC: "52:54:00:01:02:03", State: virt.Off}
	for name, k := range map[string]struct {
		newVM    bool
		domain   *virt.Domain
		networks []*virt.Network
		inst     *state.Instance
		spec     string // of the network
		mac      string
		address  string
		cpus     int
		made     bool
	}{
		"the first VM":                    {newVM: true, spec: net.Network.SubnetCIDR, mac: network.MAC("7-t"), cpus: 2, made: true},
		"in one of aivm's networks":       {newVM: true, networks: []*virt.Network{libvirts}, spec: "10.9.8.0/24", mac: network.MAC("7-t"), cpus: 2, made: true},
		"an existing VM":                  {domain: existing, spec: net.Network.SubnetCIDR, mac: existing.MAC, cpus: 5, inst: &state.Instance{UUID: "u", Address: "10.77.0.99"}, address: "10.77.0.99"},
		"an existing VM without a record": {newVM: true, domain: existing, spec: net.Network.SubnetCIDR, mac: existing.MAC, cpus: 3, inst: &state.Instance{UUID: "u", CreatedWith: &state.CreatedWith{CPUs: 3, RAMMB: 1024, DiskGB: 9}}},
		"an address of another network":   {domain: existing, spec: net.Network.SubnetCIDR, mac: existing.MAC, cpus: 5, inst: &state.Instance{UUID: "u", Address: "192.0.2.1"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := &target.Target{Name: "t", Record: record, Network: net, NetworkSpec: net.Network, NewVM: k.newVM, NewNet: k.newVM}
			if w.Record.VM.CPUs = 5; k.newVM {
				w.Record.VM.CPUs, w.Size = 0, host.Size{CPUs: 2, RAMMB: 1024, DiskGB: 10}
			}
			f := &loop.Facts{Inst: k.inst, Creation: loop.Creation{ID: "new"}}
			f.Domain.Domain = plan.Yes(k.domain)
			f.Net.Networks = plan.Yes(k.networks)
			f.Net.Routes = plan.Yes[[]network.Route](nil)
			target, facts := *w, *f
			got, _, err := Choose(w, f, host.Facts{Arch: "amd64", CPUs: 8, MemTotalMB: 16000, MemAvailMB: 12000}, 7, "7-t", t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			if got.Network.Network.SubnetCIDR != k.spec || got.MAC != k.mac || got.Record.VM.CPUs != k.cpus || !got.Address.IsValid() || got.Accel == "" {
				t.Errorf("%+v", got)
			}
			if k.address != "" && got.Address.String() != k.address {
				t.Errorf("address %s", got.Address)
			}
			if sub := netip.MustParsePrefix(got.Network.Network.SubnetCIDR); !sub.Contains(got.Address) {
				t.Errorf("address %s is not in %s", got.Address, sub)
			}
			inst := InstanceFor(w, f, got, nil, "/key")
			if inst.MAC != got.MAC || inst.Address != got.Address.String() || inst.UUID == "" || inst.SeedLeft != k.made || (inst.CreatedWith != nil) != (k.made || k.inst != nil && k.inst.CreatedWith != nil) {
				t.Errorf("%+v", inst)
			}
			if k.made && (inst.CreatedWith.CPUs != 2 || !cmp.Equal(inst.Identities, []string{"/key"})) {
				t.Errorf("%+v %+v", inst.CreatedWith, inst)
			}
			if d := cmp.Diff(target.Record, w.Record) + cmp.Diff(target.Network, w.Network); d != "" {
				t.Errorf("the target was changed: %s", d)
			}
			if facts.Inst != f.Inst || k.inst != nil && k.inst.MAC != "" {
				t.Error("the facts were changed")
			}
		})
	}
}
