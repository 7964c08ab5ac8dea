package checks

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/session"
	"aivm.dev/aivm/provision/state"
	"aivm.dev/aivm/provision/target"
)

// Tally is a list of checks. Total counts those with a known result, Done those that are ok.
type Tally struct {
	Checks []host.Check `json:"checks"`
	Done   int          `json:"done"`
	Total  int          `json:"total"`
}

// Add appends checks and counts those that are known.
func (s *Tally) Add(cs ...host.Check) {
	for _, c := range cs {
		if c.Fix == nil {
			c.Fix = []string{}
		}
		c.Detail = ui.Clean(c.Detail)
		s.Checks = append(s.Checks, c)
		switch c.State {
		case "ok":
			s.Done++
			s.Total++
		case "bad":
			s.Total++
		}
	}
}

// HostChecks checks that this machine has the programs that VMs need, and reports how VMs run.
func (e Part) HostChecks() []host.Check {
	f := e.HostFacts()
	tools, pkgs := host.Missing(f, host.Need{})
	deps := host.Check{ID: "host", Label: "Host dependencies", State: "ok", Detail: "everything is installed"}
	if len(tools) > 0 {
		deps.State, deps.Detail = "bad", "missing: "+strings.Join(tools, ", ")
		deps.Fix = host.FixPackages(f, pkgs)
	}
	accel, slow := host.Accel(f)
	run := host.Check{ID: "runtime", Label: "Runtime environment", State: "ok", Detail: "KVM"}
	if accel != "kvm" {
		run.Detail = slow
	}
	return []host.Check{deps, run}
}

// NetworkOf returns the VM's network in libvirt; nil if libvirt has none.
func NetworkOf(ctx context.Context, w *target.Target, f *loop.Facts) plan.Known[*virt.Network] {
	if f.Virt.Err != nil {
		return plan.Unknown[*virt.Network](f.Virt.Err)
	}
	return session.Known(f.Virt.Value.Network(ctx, w.Network.Network.Name))
}

// NetworkCheck checks that the VM's network exists and is active.
func NetworkCheck(w *target.Target, n plan.Known[*virt.Network]) host.Check {
	up := []string{"aivm vm up " + w.Name}
	c := host.NewCheck("network", "Libvirt network", host.Bad, "network %s does not exist", w.Network.Network.Name)
	switch {
	case n.Err != nil:
		return host.NewCheck("network", "Libvirt network", host.Unknown, "%v", n.Err)
	case n.Value == nil:
		c.Fix = up
	case !n.Value.Active:
		c.Detail, c.Fix = "network "+n.Value.Name+" is not started", up
	default:
		c.State, c.Detail = host.OK, fmt.Sprintf("%s on %s, %s", n.Value.Name, n.Value.Bridge, n.Value.Subnet)
	}
	return c
}

// VMCheck checks that the VM exists, is this user's, and runs.
func (e Part) VMCheck(w *target.Target, f *loop.Facts) host.Check {
	d := f.Domain.Domain
	c := host.NewCheck("vm", "VM state", host.Bad, "%s does not exist in libvirt", w.Name)
	c.Fix = []string{"aivm vm up " + w.Name}
	switch {
	case d.Err != nil:
		return host.NewCheck("vm", "VM state", host.Unknown, "%v", d.Err)
	case d.Value == nil:
		return c
	case !d.Value.Mark.By(e.UID):
		// The domain has another owner: it is not this user's VM.
		c.Fix = nil
		return verdict(c, host.Bad, target.CheckOwner(w, d.Value, e.UID))
	case d.Value.State != virt.Running:
		c.Detail = fmt.Sprintf("%s is %s", w.Name, d.Value.State)
	default:
		c = host.NewCheck("vm", "VM state", host.OK, "%s is running (%d CPUs, %d MB)", w.Name, d.Value.VCPUs, d.Value.RAMMB)
	}
	if diff := e.Configured(w.Record, virt.Brief{State: d.Value.State, VCPUs: d.Value.VCPUs, RAMMB: d.Value.RAMMB}); diff != nil {
		if d.Value.State != virt.Running {
			c.Detail += fmt.Sprintf(" (%d CPUs, %d MB)", d.Value.VCPUs, d.Value.RAMMB)
		}
		c.Detail += "; " + diff.Text()
		if diff.Apply != "" {
			c.Fix = []string{diff.Apply}
		}
	}
	return c
}

// Configured has the sizes that the config gives a VM, if they are not those that it has: 0 for a
// size that does not differ. Apply is the command that gives it CPUs and memory; "" if only the disk
// differs, which keeps the size that it was created with.
type Configured struct {
	CPUs   int    `json:"cpus,omitempty"`
	RAMMB  int    `json:"ram_mb,omitempty"`
	DiskGB int    `json:"disk_gb,omitempty"`
	Apply  string `json:"apply,omitempty"`
}

// DiskGB returns the size of a VM's disk: that it was created with, or the one in the config if that
// is not recorded or libvirt does not have the VM.
func (e Part) DiskGB(vm config.VM, has virt.Brief) int {
	if inst, err := e.State().Instance(vm.Name); has.VCPUs > 0 && err == nil && inst != nil && inst.CreatedWith != nil && inst.CreatedWith.DiskGB > 0 {
		return inst.CreatedWith.DiskGB
	}
	return vm.VM.DiskGB
}

// Configured compares the sizes in the config with those that the VM has; nil if they are the same.
func (e Part) Configured(vm config.VM, has virt.Brief) *Configured {
	var c Configured
	differs := func(to *int, want, is int) {
		if want > 0 && is > 0 && want != is {
			*to = want
		}
	}
	differs(&c.CPUs, vm.VM.CPUs, has.VCPUs)
	differs(&c.RAMMB, vm.VM.RAMMB, has.RAMMB)
	differs(&c.DiskGB, vm.VM.DiskGB, e.DiskGB(vm, has))
	if c == (Configured{}) {
		return nil
	}
	if c.CPUs > 0 || c.RAMMB > 0 {
		c.Apply = "aivm vm up " + vm.Name
		if has.State != virt.Off {
			c.Apply = "aivm vm restart " + vm.Name
		}
	}
	return &c
}

// Text names the differences: "the config has cpus=4, ram_mb=8192".
func (c Configured) Text() string {
	var parts []string
	add := func(format string, n int) {
		if n > 0 {
			parts = append(parts, fmt.Sprintf(format, n))
		}
	}
	add("cpus=%d", c.CPUs)
	add("ram_mb=%d", c.RAMMB)
	add("disk_gb=%d (a disk keeps its size)", c.DiskGB)
	return "the config has " + strings.Join(parts, ", ")
}

// AddressCheck checks the recorded address: the guest with the pinned key answers there, or libvirt
// reserves it for the VM.
func (e Part) AddressCheck(w *target.Target, f *loop.Facts, inst plan.Known[*state.Instance], n plan.Known[*virt.Network]) host.Check {
	bad := func(fix []string, format string, args ...any) host.Check {
		c := host.NewCheck("address", "VM address", host.Bad, format, args...)
		c.Fix = fix
		return c
	}
	made := f.Domain.Domain.Value != nil && f.Domain.Domain.Value.Mark.By(e.UID)
	restart := []string{"aivm vm restart " + w.Name}
	if !f.Running() {
		restart = []string{"aivm vm up " + w.Name}
	}
	recorded := inst.Value
	switch {
	case inst.Err != nil:
		path := shellescape.Quote(e.State().InstancePath(w.Name))
		return bad(append([]string{"mv " + path + " " + path + ".damaged"}, restart...), "%v", inst.Err)
	case recorded == nil && made:
		return bad(restart, "the VM exists, but its address is not recorded in %s", e.State().InstancePath(w.Name))
	case recorded == nil:
		return host.NewCheck("address", "VM address", host.Skipped, "none yet")
	case f.Conn != nil:
		return host.NewCheck("address", "VM address", host.OK, "%s (%s)", recorded.Address, recorded.MAC)
	case n.Err != nil:
		return host.NewCheck("address", "VM address", host.Unknown, "%s (%s) is recorded; whether libvirt reserves it for the VM is not known: %v", recorded.Address, recorded.MAC, n.Err)
	case n.Value == nil:
		return bad(restart, "%s (%s) is recorded, but its network does not exist", recorded.Address, recorded.MAC)
	}
	for _, r := range n.Value.Hosts {
		if strings.EqualFold(r.MAC, recorded.MAC) {
			if r.IP.String() == recorded.Address {
				return host.NewCheck("address", "VM address", host.OK, "%s (%s), reserved for the VM in network %s", recorded.Address, recorded.MAC, n.Value.Name)
			}
			return bad(restart, "%s is recorded, but libvirt reserves %s for the VM", recorded.Address, r.IP)
		}
	}
	return bad(restart, "%s (%s) is recorded, but network %s does not reserve it for the VM", recorded.Address, recorded.MAC, n.Value.Name)
}

// SSHCheck checks that the guest accepts the login.
func SSHCheck(w *target.Target, f *loop.Facts) host.Check {
	d := f.Domain.Domain
	c := host.NewCheck("ssh", "SSH readiness", host.Bad, "%v", f.ConnErr)
	wrongKey := new(*guest.HostKeyError)
	switch {
	case f.Conn != nil:
		if fault, repair := loop.StartupFault(w.Name, f.Conn); fault != "" {
			c := host.NewCheck("ssh", "SSH readiness", host.Bad, "%s", fault)
			c.Fix = []string{repair}
			return c
		}
		return host.NewCheck("ssh", "SSH readiness", host.OK, "the guest accepts the login")
	case errors.As(f.ConnErr, wrongKey), guest.IsUnreachable(f.ConnErr) && f.Running():
		c.Fix = []string{w.Libvirt.Virsh("console ") + w.Name}
	case d.Err == nil && !f.Running():
		return host.NewCheck("ssh", "SSH readiness", host.Skipped, "the VM does not run")
	case errors.Is(f.ConnErr, loop.ErrNotTried):
		return host.NewCheck("ssh", "SSH readiness", host.Skipped, "the VM's address is not known")
	}
	return c
}

// Briefs returns a function that returns the state of a VM, and its sizes, which are 0 if libvirt
// does not say. It asks each libvirt that has one of the VMs once, for all of them.
func (e Part) Briefs(ctx context.Context, vms []config.VM) func(config.VM) virt.Brief {
	answers := map[virt.URI]plan.Known[map[string]virt.Brief]{}
	for _, vm := range vms {
		u, err := vm.VM.Libvirt()
		if _, done := answers[u]; done || err != nil {
			continue
		}
		var k plan.Known[map[string]virt.Brief]
		l, err := e.LibvirtAt(ctx, u)
		if k.Err = err; err == nil {
			k.Value, k.Err = l.Briefs(ctx, e.UID)
		}
		answers[u] = k
	}
	return func(vm config.VM) virt.Brief {
		u, err := vm.VM.Libvirt()
		k := answers[u]
		switch b, ok := k.Value[vm.Name]; {
		case err != nil:
			return virt.Brief{State: "unknown"}
		case k.Err != nil && e.LibvirtAbsent(k.Err):
			return virt.Brief{State: virt.Missing}
		case k.Err != nil:
			return virt.Brief{State: "unknown"}
		case ok:
			return b
		}
		return virt.Brief{State: virt.Missing}
	}
}
