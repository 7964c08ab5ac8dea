package provision

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/domain"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/state"
)

// Status is the JSON of `status` (CONTRACTS).
type Status struct {
	Schema int          `json:"schema"`
	Config string       `json:"config"`
	VM     string       `json:"vm"`
	Checks []host.Check `json:"checks"`
	Done   int          `json:"done"`
	Total  int          `json:"total"`
	Wall   Wall         `json:"wall"`
	// Details and Next are there with --detail.
	Details []Detail `json:"details,omitempty"`
	Next    []string `json:"next,omitempty"`
	// Executed is what changed of the files this machine's tools run.
	Executed []ExecutedChange `json:"executed,omitempty"`
	// Special are device nodes, setuid and setgid files that appeared in folders
	// the VM can write.
	Special []SpecialFile `json:"special,omitempty"`
}

// Wall says what the guest can reach and write.
type Wall struct {
	Sentence string   `json:"sentence"`
	Writable []string `json:"writable"`
}

// Status looks at one VM, or at the host alone when there is no VM. It never
// changes anything and never asks for rights; with sudo it may ask libvirt
// through the root helper.
func (e *Env) Status(ctx context.Context, vmFlag string, sudo bool) (Status, error) {
	return e.status(ctx, vmFlag, sudo, false)
}

// StatusInDetail adds what was seen, line by line, and what to type next.
func (e *Env) StatusInDetail(ctx context.Context, vmFlag string, sudo bool) (Status, error) {
	return e.status(ctx, vmFlag, sudo, true)
}

func (e *Env) status(ctx context.Context, vmFlag string, sudo, detail bool) (Status, error) {
	store, err := e.load()
	if err != nil {
		return Status{}, err
	}
	st := Status{Schema: 1, Config: store.Path, Checks: []host.Check{}, Wall: Wall{Writable: []string{}}}
	res, err := store.Resolve(cwd(), vmFlag)
	if err != nil {
		if vmFlag != "" {
			return st, err
		}
		st.add(e.hostChecks()...)
		return st, nil
	}
	st.VM = res.VM
	w := &want{store: store, name: res.VM, guest: true, noSudo: !sudo}
	if err := e.wantKnown(w); err != nil {
		return st, err
	}
	if sudo {
		if _, err := e.libvirtWithHelp(ctx); err != nil {
			e.warnOnce(err.Error())
		}
	}
	st.add(e.hostChecks()...)
	f, inst, err := e.look(ctx, w)
	if err != nil {
		return st, err
	}
	defer f.close()
	n := networkOf(ctx, w, f)
	folders := e.seeFolders(store.Config, w, f)
	st.add(networkCheck(w, n), e.firewallCheck(ctx, w, f), e.imageCheck(w), e.vmCheck(w, f), folders.check(w, f), e.addressCheck(w, f, inst, n), sshCheck(w, f))
	st.add(folders.strays(w)...)
	executed, changes := e.executedCheck(ctx, w, f, folders)
	st.add(executed)
	st.Executed = changes
	special, files := e.specialCheck(ctx, w, f, folders)
	st.add(special)
	st.Special = files
	st.Wall = folders.wall(w, reaches(w.network, f.wallRules()))
	if detail {
		st.Details, st.Next = e.details(ctx, w, f, n), st.next(w, f)
	}
	return st, nil
}

// look is observe for a person who wants to know what is wrong: what keeps
// every plan from being made (another machine answers at the VM's address, its
// state file is damaged) is a fact here. inst is the state file, or why it
// cannot be read.
func (e *Env) look(ctx context.Context, w *want) (f *facts, inst plan.Known[*state.Instance], err error) {
	f, err = e.observe(ctx, w)
	if err == nil {
		return f, plan.Yes(f.inst), nil
	}
	if ctx.Err() != nil {
		return nil, inst, err
	}
	f = &facts{connErr: err}
	if inst.Value, inst.Err = e.state().Instance(w.name); inst.Err != nil {
		f.connErr = errNotTried
	}
	f.inst = inst.Value
	e.observeLibvirt(ctx, w, f)
	return f, inst, nil
}

func (s *Status) add(cs ...host.Check) {
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

func (e *Env) hostChecks() []host.Check {
	f := e.hostFacts()
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

func check(id, label string, state host.State, format string, args ...any) host.Check {
	return host.Check{ID: id, Label: label, State: state, Detail: fmt.Sprintf(format, args...)}
}

// networkOf is the VM's network in libvirt; a nil one does not exist there.
func networkOf(ctx context.Context, w *want, f *facts) plan.Known[*virt.Network] {
	if f.virt.Err != nil {
		return plan.Unknown[*virt.Network](f.virt.Err)
	}
	return known(f.virt.Value.Network(ctx, w.network.Network.Name))
}

func networkCheck(w *want, n plan.Known[*virt.Network]) host.Check {
	up := []string{"aivm vm up " + w.name}
	c := check("network", "Libvirt network", host.Bad, "network %s does not exist", w.network.Network.Name)
	switch {
	case n.Err != nil:
		return check("network", "Libvirt network", host.Unknown, "%v", n.Err)
	case n.Value == nil:
		c.Fix = up
	case !n.Value.Active:
		c.Detail, c.Fix = "network "+n.Value.Name+" is not started", up
	default:
		c.State, c.Detail = host.OK, fmt.Sprintf("%s on %s, %s", n.Value.Name, n.Value.Bridge, n.Value.Subnet)
	}
	return c
}

func (e *Env) imageCheck(w *want) host.Check {
	ref, _, err := w.imageRef()
	if err != nil {
		return check("image", "Base image cache", "bad", "%v", err)
	}
	ent, ok, err := e.cachedImage(ref)
	switch {
	case err != nil:
		return check("image", "Base image cache", "unknown", "%v", err)
	case !ok:
		return check("image", "Base image cache", "skipped", "%s is not in the cache; the VM does not need it any more", ref)
	}
	return check("image", "Base image cache", "ok", "%s (%d MB)", ent.Source, ent.Size>>20)
}

func (e *Env) vmCheck(w *want, f *facts) host.Check {
	d := f.domain.Domain
	c := check("vm", "VM state", host.Bad, "%s does not exist in libvirt", w.name)
	c.Fix = []string{"aivm vm up " + w.name}
	switch {
	case d.Err != nil:
		return check("vm", "VM state", host.Unknown, "%v", d.Err)
	case d.Value == nil:
		return c
	case !d.Value.Mark.By(e.UID):
		// Whoever made it, what it is and does is not this person's VM.
		c.Detail, c.Fix = domain.CheckOurs(d.Value, e.UID).Error(), []string{"aivm vm create NAME"}
		return c
	case d.Value.State != virt.Running:
		c.Detail = fmt.Sprintf("%s is %s", w.name, d.Value.State)
		return c
	}
	return check("vm", "VM state", host.OK, "%s is running (%d CPUs, %d MB)", w.name, d.Value.VCPUs, d.Value.RAMMB)
}

// addressCheck compares the address that is remembered with what is true: the
// guest with the pinned key answers there, or libvirt keeps it for the VM.
func (e *Env) addressCheck(w *want, f *facts, inst plan.Known[*state.Instance], n plan.Known[*virt.Network]) host.Check {
	bad := func(fix []string, format string, args ...any) host.Check {
		c := check("address", "VM address", host.Bad, format, args...)
		c.Fix = fix
		return c
	}
	made := f.domain.Domain.Value != nil && f.domain.Domain.Value.Mark.By(e.UID)
	anew := []string{"aivm vm restart " + w.name}
	if !f.running() {
		anew = []string{"aivm vm up " + w.name}
	}
	in := inst.Value
	switch {
	case inst.Err != nil:
		path := shellQuote(e.state().InstancePath(w.name))
		return bad(append([]string{"mv " + path + " " + path + ".damaged"}, anew...), "%v", inst.Err)
	case in == nil && made:
		return bad(anew, "the VM is there, but its address is not remembered in %s", e.state().InstancePath(w.name))
	case in == nil:
		return check("address", "VM address", host.Skipped, "none yet")
	case f.conn != nil:
		return check("address", "VM address", host.OK, "%s (%s)", in.Address, in.MAC)
	case n.Err != nil:
		return check("address", "VM address", host.Unknown, "%s (%s) is remembered; whether libvirt keeps it for the VM is not known: %v", in.Address, in.MAC, n.Err)
	case n.Value == nil:
		return bad(anew, "%s (%s) is remembered, but the network it is in does not exist", in.Address, in.MAC)
	}
	for _, r := range n.Value.Hosts {
		if strings.EqualFold(r.MAC, in.MAC) {
			if r.IP.String() == in.Address {
				return check("address", "VM address", host.OK, "%s (%s), kept for the VM in network %s", in.Address, in.MAC, n.Value.Name)
			}
			return bad(anew, "%s is remembered, but libvirt gives the VM %s", in.Address, r.IP)
		}
	}
	return bad(anew, "%s (%s) is remembered, but network %s does not keep it for the VM", in.Address, in.MAC, n.Value.Name)
}

func sshCheck(w *want, f *facts) host.Check {
	d := f.domain.Domain
	c := check("ssh", "SSH readiness", host.Bad, "%v", f.connErr)
	wrongKey := new(*guest.HostKeyError)
	switch {
	case f.conn != nil:
		return check("ssh", "SSH readiness", host.OK, "ssh %s", w.name)
	case errors.As(f.connErr, wrongKey), guest.IsUnreachable(f.connErr) && f.running():
		c.Fix = []string{"virsh -c qemu:///system console " + w.name}
	case d.Err == nil && !f.running():
		return check("ssh", "SSH readiness", host.Skipped, "the VM does not run")
	case errors.Is(f.connErr, errNotTried):
		return check("ssh", "SSH readiness", host.Skipped, "the VM's address is not known")
	}
	return c
}
