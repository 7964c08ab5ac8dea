package provision

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"aivm.dev/aivm/internal/lazyre"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/root/mountinfo"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/network"
)

// Detail is what was seen of one part of a VM, line by line, for a person who
// looks for what is wrong.
type Detail struct {
	ID    string   `json:"id"`
	Title string   `json:"title"`
	Lines []string `json:"lines"`
}

func (d *Detail) line(format string, args ...any) {
	d.Lines = append(d.Lines, ui.Clean(fmt.Sprintf(format, args...)))
}

// details are read for `status --detail` only: they cost some more questions.
func (e *Env) details(ctx context.Context, w *want, f *facts, n plan.Known[*virt.Network]) []Detail {
	return []Detail{e.domainDetail(f), e.storageDetail(ctx, w, f), e.networkDetail(f, n), e.mountDetail(w), e.sshDetail(w, f), guestDetail(f), e.serialDetail(ctx, w, f)}
}

func (e *Env) domainDetail(f *facts) Detail {
	d := Detail{ID: "domain", Title: "libvirt domain"}
	v := f.domain.Domain.Value
	switch {
	case f.domain.Domain.Err != nil:
		d.line("not known: %v", f.domain.Domain.Err)
	case v == nil:
		d.line("there is none")
	default:
		d.line("%s, uuid %s, %s", v.Name, v.UUID, v.State)
		d.line("%s, %d CPUs, %d MiB", map[string]string{"kvm": "KVM", "qemu": "emulated"}[v.Accel], v.VCPUs, v.RAMMB)
		for _, k := range v.Disks {
			d.line("disk %s (%s): %s", k.Target, k.Serial, k.File)
		}
		for _, k := range v.Filesystems {
			d.line("virtiofs %s: %s", k.Tag, k.Source)
		}
		d.line("network %s, MAC %s", v.Network, v.MAC)
		d.line("serial console: %s", v.SerialLog)
	}
	return d
}

// storageDetail is how large the VM's disk has grown.
func (e *Env) storageDetail(ctx context.Context, w *want, f *facts) Detail {
	dir := e.baseDir(w.record.Paths)
	d := Detail{ID: "storage", Title: "storage at " + ui.Clean(dir)}
	if f.virt.Err != nil {
		d.line("not known: %v", f.virt.Err)
		return d
	}
	p, err := f.virt.Value.PoolAt(ctx, dir)
	switch {
	case errors.Is(err, virt.ErrNotFound):
		d.line("there is no pool")
		return d
	case err != nil:
		d.line("not known: %v", err)
		return d
	}
	d.line("pool %s, running %v", p.Name, p.Active)
	if free, err := e.hostFacts().DiskFreeGB(dir); err == nil {
		d.line("%d GiB free", free)
	}
	var names []string
	for name := range p.Volumes {
		if strings.HasPrefix(name, e.key(w.name)+".") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		v := p.Volumes[name]
		d.line("%s: %s, %d MiB used of %d", name, v.Format, v.Allocation>>20, v.Capacity>>20)
	}
	return d
}

func (e *Env) networkDetail(f *facts, n plan.Known[*virt.Network]) Detail {
	d := Detail{ID: "network", Title: "libvirt network"}
	v := n.Value
	switch {
	case n.Err != nil:
		d.line("not known: %v", n.Err)
		return d
	case v == nil:
		d.line("there is none")
		return d
	}
	d.line("%s, bridge %s, gateway %s, %s, running %v, autostart %v", v.Name, v.Bridge, v.Gateway, v.Subnet, v.Active, v.Autostart)
	mine := ""
	if f.inst != nil {
		mine = f.inst.MAC
	}
	for _, r := range v.Hosts {
		if strings.EqualFold(r.MAC, mine) {
			d.line("kept for the VM: %s (%s)", r.IP, r.MAC)
		}
	}
	leased := false
	for _, r := range v.Leases {
		if strings.EqualFold(r.MAC, mine) {
			leased = true
			d.line("lease: %s", r.IP)
		}
	}
	if !leased {
		d.line("no lease: the guest asked for no address, or a while ago")
	}
	routes, _ := e.routes()
	if f.inst != nil && routes.Err == nil {
		if a, err := netip.ParseAddr(f.inst.Address); err == nil {
			d.line("packets to %s leave through %s", a, network.Through(routes.Value, a))
		}
	}
	return d
}

// mountDetail is what of this machine lies in the VM's export root.
func (e *Env) mountDetail(w *want) Detail {
	d := Detail{ID: "mounts", Title: "mounts for the VM on this machine"}
	at := root.ExportRoot(e.key(w.name))
	b, err := e.mountTable()
	if err != nil {
		d.line("not known: %v", err)
		return d
	}
	ms, err := mountinfo.Parse(b)
	if err != nil {
		d.line("not known: %v", err)
		return d
	}
	for _, m := range ms {
		if m.Point == at || strings.HasPrefix(m.Point, at+"/") {
			d.line("%s: %s %s, %s", m.Point, m.Type, m.Root, strings.Join(m.Options, ","))
		}
	}
	if len(d.Lines) == 0 {
		d.line("none")
	}
	return d
}

func (e *Env) sshDetail(w *want, f *facts) Detail {
	d := Detail{ID: "ssh", Title: "ssh"}
	d.line("entry: %s", e.SSH.ConfPath(w.name))
	d.line("known hosts: %s", e.SSH.KnownHostsPath(w.name))
	if hk, err := e.SSH.LoadHostKey(w.name); err != nil {
		d.line("host key: %v", err)
	} else {
		d.line("host key: %s", ssh.FingerprintSHA256(hk.Public))
	}
	if f.inst != nil {
		d.line("%s@%s, keys: %s", f.inst.User, f.inst.Address, strings.Join(f.inst.Identities, ", "))
	}
	if f.conn == nil && !errors.Is(f.connErr, errNotTried) {
		d.line("last try: %v", f.connErr)
	}
	return d
}

func guestDetail(f *facts) Detail {
	d := Detail{ID: "guest", Title: "guest"}
	if f.conn == nil {
		d.line("not asked: %v", f.connErr)
		return d
	}
	b := f.guest.boot
	d.line("cloud-init: installed %v, first boot over %v, switched off %v %s", b.Installed, b.Finished, b.Disabled, b.Stage)
	for _, s := range b.Errors {
		d.line("cloud-init: %s", s)
	}
	return d
}

// coloursRE finds colours and cursor moves after they were made harmless.
var coloursRE = lazyre.New(`\\x1b\[[0-9;?]*[A-Za-z]`)

// serialLines are shown of what the guest wrote to its console last.
const serialLines = 12

func (e *Env) serialDetail(ctx context.Context, w *want, f *facts) Detail {
	d := Detail{ID: "serial", Title: "last lines of the serial console", Lines: []string{}}
	if f.virt.Err != nil {
		d.line("not known: %v", f.virt.Err)
		return d
	}
	for _, s := range e.serialTail(ctx, f.virt.Value, w, serialLines) {
		d.line("%s", strings.TrimSpace(coloursRE.ReplaceAllString(s, "")))
	}
	if len(d.Lines) == 0 {
		d.line("none, or not to be read")
	}
	return d
}

// next are the commands worth typing, those that mend something first.
func (s Status) next(w *want, f *facts) []string {
	var out []string
	add := func(c string) {
		if !slices.Contains(out, c) {
			out = append(out, c)
		}
	}
	for _, c := range s.Checks {
		for _, fix := range c.Fix {
			if c.State == host.Bad || c.State == host.Unknown {
				add(fix)
			}
		}
	}
	name := w.name
	d := f.domain.Domain
	switch {
	case f.conn != nil:
		add("aivm ssh . --vm " + name)
	case d.Err == nil && d.Value != nil && f.running():
		add("aivm vm wait-ip " + name)
	case d.Err == nil:
		add("aivm vm up " + name)
	}
	if d.Err != nil || d.Value != nil {
		add("virsh -c qemu:///system console " + name)
		add("virsh -c qemu:///system dumpxml " + name)
	}
	add("aivm host doctor")
	return out
}
