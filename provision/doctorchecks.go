package provision

import (
	"errors"
	"fmt"
	"strings"

	"aivm.dev/aivm/internal/editor"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/network"
	"aivm.dev/aivm/sshcfg"
)

// verdict makes a check of an error: what it says, and its hints as the fix.
func verdict(c host.Check, state host.State, err error) host.Check {
	c.State, c.Detail = state, err.Error()
	var ue *ui.Error
	if errors.As(err, &ue) {
		c.Detail, c.Fix = ue.Message, append(c.Fix, ue.Hints...)
	}
	return c
}

// networksCheck looks for what is in the way of aivm's networks: those that
// are there, and the one the next VM would get.
func (e *Env) networksCheck(d diagnosis) host.Check {
	c := host.Check{ID: "networks", Label: "Bridges, subnets, routes", State: host.OK}
	if d.net.Routes.Err != nil {
		c.State, c.Detail = host.Unknown, fmt.Sprintf("the routes cannot be read: %v", d.net.Routes.Err)
		return c
	}
	c.Evidence = append(c.Evidence, fmt.Sprintf("/proc/net/route: %d routes, %d interfaces", len(d.net.Routes.Value), len(d.net.Interfaces)))
	var good, bad []string
	for _, n := range d.net.Networks.Value {
		if !n.Mark.By(e.UID) {
			continue
		}
		c.Evidence = append(c.Evidence, fmt.Sprintf("network %s: bridge %s, %s, running %v", n.Name, n.Bridge, n.Subnet, n.Active))
		stolen, hides := d.net.Stolen(n)
		switch {
		case stolen != "":
			bad = append(bad, fmt.Sprintf("%s takes the packets for network %s (%s): its VMs cannot be reached", stolen, n.Name, n.Subnet))
			c.Fix = append(c.Fix, "take that route away (a VPN, another bridge): ip -4 route show")
		case hides != "":
			good = append(good, fmt.Sprintf("%s on %s (%s hides nothing of it; hosts behind that route with these addresses cannot be reached from here)", n.Name, n.Subnet, hides))
		default:
			good = append(good, fmt.Sprintf("%s on %s", n.Name, n.Subnet))
		}
	}
	for _, m := range d.left.Value {
		bad = append(bad, fmt.Sprintf("the firewall of network %s is kept, and libvirt does not have that network any more", m.Wall.Network))
		c.Fix = append(c.Fix, "aivm host doctor --fix")
	}
	if len(bad) > 0 {
		c.State, c.Detail = host.Bad, strings.Join(bad, "; ")
		return c
	}
	if d.store.Err == nil {
		next, err := e.nextNetwork(d)
		if err != nil {
			return verdict(c, host.Bad, err)
		}
		if next != "" {
			good = append(good, next)
		}
	}
	c.Detail = strings.Join(good, ", ")
	if d.left.Err != nil {
		c.State, c.Detail = host.Unknown, fmt.Sprintf("whether a firewall is left of a network that is gone is not known: %v", d.left.Err)
	}
	if err := d.net.Networks.Err; err != nil {
		c.State = host.Unknown
		c.Detail = fmt.Sprintf("no route is in the way of the default network; which networks libvirt has is not known: %v", err)
		if errors.Is(err, virt.ErrDenied) {
			c.Fix = []string{"aivm host doctor --sudo"}
		}
	}
	return c
}

// nextNetwork says which network a VM made now would get, if it is not there
// yet.
func (e *Env) nextNetwork(d diagnosis) (string, error) {
	w := &want{store: d.store.Value, wished: d.store.Value.Config.Defaults.Network}
	f := d.net
	f.Networks.Err = nil // unknown: then only routes and interfaces can be in the way
	spec, err := network.Choose(f, w.wished, e.UID, !w.autoNet())
	if err != nil {
		return "", err
	}
	for _, n := range f.Networks.Value {
		if n.Name == spec.Name {
			return "", nil
		}
	}
	if spec.SubnetCIDR != w.wished.SubnetCIDR {
		return fmt.Sprintf("the first VM gets %s on %s, since %s is taken", spec.Name, spec.SubnetCIDR, w.wished.SubnetCIDR), nil
	}
	return fmt.Sprintf("the first VM gets %s on %s, which is free", spec.Name, spec.SubnetCIDR), nil
}

// sshConfigCheck says whether ssh reads the person's configuration, and makes
// of each VM's alias what was meant.
func (e *Env) sshConfigCheck(d diagnosis) host.Check {
	c := host.Check{ID: "ssh-config", Label: "SSH configuration", State: host.OK}
	if d.host.Tools["ssh"] == "" {
		c.State, c.Detail = host.Skipped, "ssh is not installed"
		return c
	}
	if d.sshErr != nil {
		if errors.Is(d.sshErr, sshcfg.ErrReadOnly) {
			return verdict(c, host.Unknown, d.sshErr)
		}
		return verdict(c, host.Bad, d.sshErr)
	}
	c.Evidence = append(c.Evidence, "ssh -G: reads it to the end")
	for _, g := range d.gone {
		c.Evidence = append(c.Evidence, g.String())
	}
	var good, bad []string
	for _, p := range d.vms {
		name := p.want.name
		switch {
		case errors.Is(p.err, sshcfg.ErrReadOnly):
			return verdict(c, host.Unknown, p.err)
		case p.err != nil:
			k := verdict(c, host.Bad, p.err)
			bad, c.Fix = append(bad, name+": "+k.Detail), k.Fix
		case p.inst == nil:
		case len(p.plan) > 0:
			bad = append(bad, fmt.Sprintf("ssh %s does not reach its VM: the entry or the Include line is missing or was changed", name))
			c.Fix = append(c.Fix, "aivm host doctor --fix")
		case len(p.others) > 0:
			for _, m := range p.others {
				bad = append(bad, fmt.Sprintf("ssh %s: %s", name, m))
				if m.Hint != "" {
					c.Fix = append(c.Fix, m.Hint)
				}
			}
		default:
			good = append(good, name)
		}
	}
	switch {
	case len(bad) > 0:
		c.State, c.Detail = host.Bad, strings.Join(bad, "; ")
	case len(good) > 0:
		c.Detail = "ssh knows " + strings.Join(good, ", ")
	default:
		c.Detail = "ssh reads it; no VM is in it yet"
	}
	return c
}

// editorCheck says which editors are here, and whether they can open a VM. None
// is needed: the recipe is printed then.
func (e *Env) editorCheck() host.Check {
	c := host.Check{ID: "editor", Label: "Editors", State: host.OK}
	if reason, remote := editor.RemoteSession(e.Editor); remote {
		c.State, c.Detail = host.Skipped, "none is started here: "+reason
		return c
	}
	var good, bad []string
	for _, f := range e.editors() {
		if f.Editor.Extension == "" {
			continue // a browser, a terminal, instructions: always there
		}
		has, err := editor.ExtensionOnDisk(e.Editor, f)
		c.Evidence = append(c.Evidence, fmt.Sprintf("%s: %s (%s), %s on disk: %v", f.Editor.ID, strings.Join(f.Argv, " "), f.How, f.Editor.Extension, has))
		switch {
		case err != nil:
			c.State = host.Unknown
			bad = append(bad, fmt.Sprintf("%s: its extensions cannot be read: %v", f.Editor.Name, err))
		case has:
			good = append(good, f.Editor.Name)
		default:
			bad = append(bad, fmt.Sprintf("%s lacks the extension %s, without which it opens no VM", f.Editor.Name, f.Editor.Extension))
			c.Fix = append(c.Fix, extensionCommand(f))
		}
	}
	switch {
	case len(good) > 0:
		// One that works is enough.
		c.State, c.Detail = host.OK, strings.Join(append(good, bad...), "; ")
	case len(bad) > 0:
		if c.State == host.OK {
			c.State = host.Bad
		}
		c.Detail = strings.Join(bad, "; ")
	default:
		_, err := editor.Lookup(e.Editor, editor.Auto)
		c.State, c.Detail = host.Skipped, "none is started, and the recipe is printed instead"
		if err != nil {
			c.Detail += ": " + err.Error()
		}
		for _, k := range editor.Editors()[:1] {
			c.Fix = []string{"to install " + k.Name + ": " + k.Install}
		}
	}
	return c
}

// editors are those of the table that are found here.
func (e *Env) editors() []editor.Found {
	var out []editor.Found
	for _, id := range editor.IDs() {
		if f, err := editor.Lookup(e.Editor, id); err == nil {
			out = append(out, f)
		}
	}
	return out
}

func extensionCommand(f editor.Found) string {
	return strings.Join(f.Argv, " ") + " --install-extension " + f.Editor.Extension
}

// storeCheck says whether the config can be used.
func storeCheck(d diagnosis) host.Check {
	c := host.Check{ID: "config", Label: "Config", State: host.OK}
	switch {
	case d.store.Err != nil:
		c = verdict(c, host.Bad, d.store.Err)
		if len(c.Fix) == 0 {
			c.Fix = []string{"aivm config lint", "aivm config edit"}
		}
	case len(d.store.Value.Warnings) > 0:
		c.State, c.Detail, c.Fix = host.Bad, warningText(d.store.Value.Path, d.store.Value.Warnings[0]), []string{"aivm config lint"}
	default:
		c.Evidence = []string{d.store.Value.Path + ": understood"}
		c.Detail = count(len(d.store.Value.Config.VMs), "VM") + ", " + count(len(d.store.Value.Config.Attachments), "folder")
	}
	return c
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}
