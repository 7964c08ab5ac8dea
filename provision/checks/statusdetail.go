package checks

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
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/network"
	"aivm.dev/aivm/provision/target"
)

// Detail lists the facts about one part of a VM, line by line, for status --detail.
type Detail struct {
	ID    string   `json:"id"`
	Title string   `json:"title"`
	Lines []string `json:"lines"`
}

func (d *Detail) line(format string, args ...any) {
	d.Lines = append(d.Lines, ui.Clean(fmt.Sprintf(format, args...)))
}

// Details reads the facts for `status --detail`, which need some more requests than `status`.
func (e Part) Details(ctx context.Context, w *target.Target, f *loop.Facts, n plan.Known[*virt.Network]) []Detail {
	return []Detail{e.domainDetail(f), e.storageDetail(ctx, w, f), e.networkDetail(f, n), e.mountDetail(w), e.sshDetail(w, f), guestDetail(f), e.serialDetail(ctx, w, f)}
}

func (e Part) domainDetail(f *loop.Facts) Detail {
	d := Detail{ID: "domain", Title: "libvirt domain"}
	v := f.Domain.Domain.Value
	switch {
	case f.Domain.Domain.Err != nil:
		d.line("not known: %v", f.Domain.Domain.Err)
	case v == nil:
		d.line("none")
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

// storageDetail lists the VM's volumes with their sizes.
func (e Part) storageDetail(ctx context.Context, w *target.Target, f *loop.Facts) Detail {
	dir := e.BaseDir(w.Record.Paths)
	d := Detail{ID: "storage", Title: "storage at " + ui.Clean(dir)}
	if f.Virt.Err != nil {
		d.line("not known: %v", f.Virt.Err)
		return d
	}
	p, err := f.Virt.Value.PoolAt(ctx, dir)
	switch {
	case errors.Is(err, virt.ErrNotFound):
		d.line("no pool")
		return d
	case err != nil:
		d.line("not known: %v", err)
		return d
	}
	d.line("pool %s, running %v", p.Name, p.Active)
	if free, err := e.HostFacts().DiskFreeGB(dir); err == nil {
		d.line("%d GiB free", free)
	}
	var names []string
	for name := range p.Volumes {
		if strings.HasPrefix(name, e.Key(w.Name)+".") {
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

func (e Part) networkDetail(f *loop.Facts, n plan.Known[*virt.Network]) Detail {
	d := Detail{ID: "network", Title: "libvirt network"}
	v := n.Value
	switch {
	case n.Err != nil:
		d.line("not known: %v", n.Err)
		return d
	case v == nil:
		d.line("none")
		return d
	}
	d.line("%s, bridge %s, gateway %s, %s, running %v, autostart %v", v.Name, v.Bridge, v.Gateway, v.Subnet, v.Active, v.Autostart)
	mac := ""
	if f.Inst != nil {
		mac = f.Inst.MAC
	}
	for _, r := range v.Hosts {
		if strings.EqualFold(r.MAC, mac) {
			d.line("reserved for the VM: %s (%s)", r.IP, r.MAC)
		}
	}
	leased := false
	for _, r := range v.Leases {
		if strings.EqualFold(r.MAC, mac) {
			leased = true
			d.line("lease: %s", r.IP)
		}
	}
	if !leased {
		d.line("no lease: the guest requested no address, or the lease has expired")
	}
	routes, _ := e.Routes()
	if f.Inst != nil && routes.Err == nil {
		if a, err := netip.ParseAddr(f.Inst.Address); err == nil {
			d.line("packets to %s leave through %s", a, network.OutgoingInterface(routes.Value, a))
		}
	}
	return d
}

// mountDetail lists the mounts in the VM's export root.
func (e Part) mountDetail(w *target.Target) Detail {
	d := Detail{ID: "mounts", Title: "mounts for the VM on this machine"}
	at := root.ExportRoot(e.Key(w.Name))
	b, err := e.MountTable()
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

func (e Part) sshDetail(w *target.Target, f *loop.Facts) Detail {
	d := Detail{ID: "ssh", Title: "ssh"}
	d.line("entry: %s", e.SSH.ConfPath(w.Name))
	d.line("known hosts: %s", e.SSH.KnownHostsPath(w.Name))
	if hk, err := e.SSH.LoadHostKey(w.Name); err != nil {
		d.line("host key: %v", err)
	} else {
		d.line("host key: %s", ssh.FingerprintSHA256(hk.Public))
	}
	if f.Inst != nil {
		d.line("%s@%s, keys: %s", f.Inst.User, f.Inst.Address, strings.Join(f.Inst.Identities, ", "))
	}
	if f.Conn == nil && !errors.Is(f.ConnErr, loop.ErrNotTried) {
		d.line("last login: %v", f.ConnErr)
	}
	return d
}

func guestDetail(f *loop.Facts) Detail {
	d := Detail{ID: "guest", Title: "guest"}
	if f.Conn == nil {
		d.line("not known: %v", f.ConnErr)
		return d
	}
	b := f.Guest.Boot
	d.line("cloud-init: installed %v, first boot over %v, switched off %v %s", b.Installed, b.Finished, b.Disabled, b.Stage)
	for _, s := range b.Errors {
		d.line("cloud-init: %s", s)
	}
	return d
}

// coloursRE matches escape sequences for colours and cursor moves after they were escaped.
var coloursRE = lazyre.New(`\\x1b\[[0-9;?]*[A-Za-z]`)

func (e Part) serialDetail(ctx context.Context, w *target.Target, f *loop.Facts) Detail {
	d := Detail{ID: "serial", Title: "last lines of the serial console", Lines: []string{}}
	if f.Virt.Err != nil {
		d.line("not known: %v", f.Virt.Err)
		return d
	}
	for _, s := range e.SerialTail(ctx, f.Virt.Value, w, loop.SerialLines) {
		d.line("%s", strings.TrimSpace(coloursRE.ReplaceAllString(s, "")))
	}
	if len(d.Lines) == 0 {
		d.line("none, or not readable")
	}
	return d
}

// Next returns the commands to try next, those that fix a failed check first.
func (s Tally) Next(w *target.Target, f *loop.Facts) []string {
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
	name := w.Name
	d := f.Domain.Domain
	switch {
	case f.Conn != nil:
		add("aivm ssh . --vm " + name)
	case d.Err == nil && d.Value != nil && f.Running():
		add("aivm vm wait-ip " + name)
	case d.Err == nil:
		add("aivm vm up " + name)
	}
	if d.Err != nil || d.Value != nil {
		add(w.Libvirt.Virsh("console ") + name)
		add(w.Libvirt.Virsh("dumpxml ") + name)
	}
	add("aivm host doctor")
	return out
}
