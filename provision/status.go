package provision

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/image"
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
		st.add(e.hostChecks(sudo)...)
		return st, nil
	}
	st.VM = res.VM
	w := &want{store: store, name: res.VM, guest: true}
	if err := e.wantKnown(w); err != nil {
		return st, err
	}
	if sudo {
		if _, err := e.libvirtWithHelp(ctx); err != nil {
			e.warnOnce(err.Error())
		}
	}
	st.add(e.hostChecks(sudo)...)
	f, err := e.observe(ctx, w)
	if err != nil {
		return st, err
	}
	defer f.close()
	st.add(e.networkCheck(ctx, w, f), firewallCheck(), e.imageCheck(w), vmCheck(w, f), e.foldersCheck(store.Config, w), addressCheck(f), sshCheck(w, f))
	st.Wall = e.wall(store.Config, w)
	return st, nil
}

func (s *Status) add(cs ...host.Check) {
	for _, c := range cs {
		if c.Fix == nil {
			c.Fix = []string{}
		}
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

func (e *Env) hostChecks(bool) []host.Check {
	f := e.hostFacts()
	tools, pkgs := host.Missing(f, host.Need{})
	deps := host.Check{ID: "host", Label: "Host dependencies", State: "ok", Detail: "everything is installed"}
	if len(tools) > 0 {
		deps.State, deps.Detail = "bad", "missing: "+strings.Join(tools, ", ")
		deps.Fix = []string{"sudo apt-get install --no-install-recommends " + strings.Join(pkgs, " ")}
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

func (e *Env) networkCheck(ctx context.Context, w *want, f *facts) host.Check {
	c := check("network", "Libvirt network", "unknown", "libvirt cannot be asked")
	if f.virt.Err != nil {
		c.Detail = f.virt.Err.Error()
		return c
	}
	n, err := f.virt.Value.Network(ctx, w.network.Network.Name)
	switch {
	case errors.Is(err, virt.ErrNotFound):
		c.State, c.Detail, c.Fix = "bad", "network "+w.network.Network.Name+" does not exist", []string{"aivm vm up " + w.name}
	case err != nil:
		c.Detail = err.Error()
	case !n.Active:
		c.State, c.Detail, c.Fix = "bad", "network "+n.Name+" is not started", []string{"aivm vm up " + w.name}
	default:
		c.State, c.Detail = "ok", fmt.Sprintf("%s on %s, %s", n.Name, n.Bridge, n.Subnet)
	}
	return c
}

func firewallCheck() host.Check {
	return check("firewall", "Firewall", "skipped", "not built yet: the guest reaches this machine and its networks")
}

func (e *Env) imageCheck(w *want) host.Check {
	ref, err := w.imageRef()
	if err != nil {
		return check("image", "Base image cache", "bad", "%v", err)
	}
	ref, _ = image.Resolve(ref)
	ent, ok, err := e.Cache.Lookup(ref)
	switch {
	case err != nil:
		return check("image", "Base image cache", "unknown", "%v", err)
	case !ok:
		return check("image", "Base image cache", "skipped", "%s is not in the cache; the VM does not need it any more", ref)
	}
	return check("image", "Base image cache", "ok", "%s (%d MB)", ref, ent.Size>>20)
}

func vmCheck(w *want, f *facts) host.Check {
	d := f.domain.Domain
	switch {
	case d.Err != nil:
		return check("vm", "VM state", "unknown", "%v", d.Err)
	case d.Value == nil:
		c := check("vm", "VM state", "bad", "%s does not exist in libvirt", w.name)
		c.Fix = []string{"aivm vm up " + w.name}
		return c
	case d.Value.State != virt.Running:
		c := check("vm", "VM state", "bad", "%s is %s", w.name, d.Value.State)
		c.Fix = []string{"aivm vm up " + w.name}
		return c
	}
	return check("vm", "VM state", "ok", "%s is running (%d CPUs, %d MB)", w.name, d.Value.VCPUs, d.Value.RAMMB)
}

func (e *Env) foldersCheck(c config.Config, w *want) host.Check {
	var bad, good, fix []string
	for _, f := range e.folders(c) {
		if f.VM != w.name {
			continue
		}
		if f.State == "ok" {
			good = append(good, f.HostPath)
			continue
		}
		bad = append(bad, f.HostPath+" ("+f.State+")")
		if f.State != "missing" {
			fix = append(fix, "aivm attach "+shellQuote(f.HostPath)+" --vm "+w.name)
		}
	}
	if len(bad) > 0 {
		k := check("folders", "VM shared folders", "bad", "%s", strings.Join(bad, ", "))
		k.Fix = fix
		return k
	}
	if len(good) == 0 {
		return check("folders", "VM shared folders", "skipped", "none is attached")
	}
	return check("folders", "VM shared folders", "ok", "%s", strings.Join(good, ", "))
}

func addressCheck(f *facts) host.Check {
	if f.inst == nil {
		return check("address", "VM address", "skipped", "none yet")
	}
	return check("address", "VM address", "ok", "%s (%s)", f.inst.Address, f.inst.MAC)
}

func sshCheck(w *want, f *facts) host.Check {
	if f.conn != nil {
		return check("ssh", "SSH readiness", "ok", "ssh %s", w.name)
	}
	if errors.Is(f.connErr, errNotTried) || f.domain.Domain.Err == nil && (f.domain.Domain.Value == nil || f.domain.Domain.Value.State != virt.Running) {
		return check("ssh", "SSH readiness", "skipped", "the VM does not run")
	}
	c := check("ssh", "SSH readiness", "bad", "%v", f.connErr)
	if guest.IsUnreachable(f.connErr) {
		c.Fix = []string{"virsh -c qemu:///system console " + w.name}
	}
	return c
}

// wall says in a sentence what the guest can do outside itself.
func (e *Env) wall(c config.Config, w *want) Wall {
	out := Wall{Writable: []string{}}
	for _, f := range e.folders(c) {
		if f.VM == w.name && f.Access == "rw" && f.State == "ok" {
			out.Writable = append(out.Writable, f.HostPath)
		}
	}
	files := "It can write no folder of this machine."
	if len(out.Writable) > 0 {
		files = "It can write " + strings.Join(out.Writable, ", ") + "."
	}
	out.Sentence = fmt.Sprintf("VM %s reaches the internet, this machine and its networks (the firewall is not built yet). %s", w.name, files)
	return out
}

// Doctor returns the host's checks.
func (e *Env) Doctor(ctx context.Context) Status {
	st := Status{Schema: 1, Config: e.StorePath, Checks: []host.Check{}, Wall: Wall{Writable: []string{}}}
	f := e.hostFacts()
	st.add(host.Doctor(f, host.Examine(ctx, e.Host, f, DefaultBaseDir))...)
	return st
}
