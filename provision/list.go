package provision

import (
	"cmp"
	"context"
	"fmt"
	"sort"
	"sync"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/checks"
	"aivm.dev/aivm/provision/folders"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/legacy03"
	"aivm.dev/aivm/provision/templates"
	"aivm.dev/aivm/provision/walls"
)

// Listing is the JSON output of `list`.
type Listing struct {
	Schema   int                    `json:"schema"`
	Store    string                 `json:"store"`
	ActiveVM string                 `json:"active_vm"`
	VMs      []ListedVM             `json:"vms"`
	Networks []ListedNetwork        `json:"networks"`
	Folders  []folders.ListedFolder `json:"folders"`
	OneShots
}

// OneShots lists what there is of one-shot VMs.
type OneShots struct {
	Templates []TemplateListed `json:"templates"`
	Runs      []RunRecord      `json:"runs"`
}

// OneShots reads the templates and the runs. What cannot be read is a warning, and left out.
func (e *Env) OneShots(ctx context.Context) OneShots {
	out, warnings := e.readOneShots(ctx)
	for _, w := range warnings {
		e.WarnOnce(w)
	}
	return out
}

// readOneShots is OneShots without printing, so that it can run beside other observations.
func (e *Env) readOneShots(ctx context.Context) (out OneShots, warnings []string) {
	out = OneShots{Templates: []TemplateListed{}, Runs: []RunRecord{}}
	ts, err := e.Templates(ctx)
	if err != nil {
		warnings = append(warnings, "the templates are not known: "+err.Error())
	}
	rs, err := e.Runs()
	if err != nil {
		warnings = append(warnings, "the runs are not known: "+err.Error())
	}
	out.Templates, out.Runs = append(out.Templates, ts...), append(out.Runs, rs...)
	return out, warnings
}

// Check reports whether "aivm run" can resume the template that it uses; wanted is its name.
func (o OneShots) Check(wanted string) host.Check {
	c := host.NewCheck("templates", "Template of aivm run", host.Skipped, "none yet")
	setup := "aivm setup"
	if wanted == "" {
		wanted = config.DefaultTemplate
	}
	if wanted != config.DefaultTemplate {
		setup += " --template " + wanted
	}
	c.Fix = []string{setup}
	for _, t := range o.Templates {
		switch {
		case t.Name != wanted:
			continue
		case t.State == templates.StateReady:
			c.State, c.Fix = host.OK, []string{}
		case t.State == templates.StateStale:
			c.State = host.Bad
		}
		c.Detail = t.Name + " is " + t.State
		if t.Why != "" {
			c.Detail += ": " + t.Why
		}
		if t.State == templates.StateReady && t.Accel == "tcg" {
			c.Detail += "; emulation, several times slower than KVM"
		}
	}
	if n := len(o.Runs); n > 0 {
		c.Detail += fmt.Sprintf("; %d running", n)
	}
	return c
}

// ListedVM is one VM of a Listing.
type ListedVM struct {
	Name    string `json:"name"`
	State   string `json:"state"`
	Alias   string `json:"alias"`
	Address string `json:"address"`
	Network string `json:"network"`
	CPUs    int    `json:"cpus"`
	RAMMB   int    `json:"ram_mb"`
	DiskGB  int    `json:"disk_gb"`
	Image   string `json:"image"`
	// AliasFault: why ssh cannot use the alias, by the files of its configuration.
	AliasFault string `json:"alias_fault,omitempty"`
	// Configured is set if the config has other sizes. Where libvirt does not say what a VM has (state
	// "missing" or "unknown"), CPUs and RAMMB are those of the config.
	Configured *checks.Configured `json:"configured,omitempty"`
	// NotAdopted: the domain exists without aivm's mark; a VM of aivm 0.3 has none until `vm adopt`.
	NotAdopted bool `json:"not_adopted,omitempty"`
}

// ListedNetwork is one network of a Listing.
type ListedNetwork struct {
	Name     string `json:"name"`
	Bridge   string `json:"bridge"`
	Subnet   string `json:"subnet"`
	Firewall bool   `json:"firewall"` // its rules are loaded, as far as this user may read them
	Rules    string `json:"rules"`    // their state: "in place", "missing", "altered", "older", "unknown", "off"
	VMs      int    `json:"vms"`
}

// Listing reads the config, the states of the domains and the mounts. It changes nothing and needs
// no privileges; what cannot be read is "unknown".
func (e *Env) Listing(ctx context.Context) (Listing, error) {
	store, err := e.Load()
	if err != nil {
		return Listing{}, err
	}
	c := store.Config
	out := Listing{Schema: 1, Store: store.Path, ActiveVM: c.ActiveVM, VMs: []ListedVM{}, Networks: []ListedNetwork{}, Folders: []folders.ListedFolder{}}
	// Ask libvirt while the mount table is read.
	var briefs func(config.VM) virt.Brief
	var warnings []string
	var wg sync.WaitGroup
	wg.Go(func() { briefs = checks.For(e.Loop).Briefs(ctx, c.VMs) })
	wg.Go(func() { out.OneShots, warnings = e.readOneShots(ctx) })
	out.Folders = folders.For(e.Loop).List(c)
	wg.Wait()
	for _, w := range warnings {
		e.WarnOnce(w)
	}
	for _, vm := range c.VMs {
		is, check := briefs(vm), checks.For(e.Loop)
		l := ListedVM{
			Name: vm.Name, Alias: vm.Name, State: string(is.State), Network: vm.NetworkName, Image: vm.Image.Name,
			CPUs: cmp.Or(is.VCPUs, vm.VM.CPUs), RAMMB: cmp.Or(is.RAMMB, vm.VM.RAMMB), DiskGB: check.DiskGB(vm, is), Configured: check.Configured(vm, is),
		}
		if l.State == string(virt.Missing) {
			if s, there := legacy03.For(e.Loop).Unadopted(ctx, vm); there {
				l.State, l.NotAdopted = string(s), true
			}
		}
		if inst, err := e.State().Instance(vm.Name); err == nil && inst != nil {
			l.Address, l.AliasFault = inst.Address, checks.For(e.Loop).AliasFault(vm, inst)
		}
		out.VMs = append(out.VMs, l)
	}
	for _, n := range c.Networks {
		l := ListedNetwork{Name: n.Name, Bridge: n.Network.Bridge, Subnet: n.Network.SubnetCIDR, VMs: len(c.NetworkUsers(n.Name))}
		l.Firewall, l.Rules = walls.For(e.Loop).Listed(ctx, n)
		out.Networks = append(out.Networks, l)
	}
	sort.Slice(out.VMs, func(i, j int) bool { return out.VMs[i].Name < out.VMs[j].Name })
	sort.Slice(out.Networks, func(i, j int) bool { return out.Networks[i].Name < out.Networks[j].Name })
	return out, nil
}
