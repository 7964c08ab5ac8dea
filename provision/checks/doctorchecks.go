package checks

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/network"
	"aivm.dev/aivm/provision/session"
	"aivm.dev/aivm/provision/target"
	"aivm.dev/aivm/sshcfg"
)

// verdict returns c with an error's message as its detail, and the error's hints as its fix.
func verdict(c host.Check, state host.State, err error) host.Check {
	c.State, c.Detail = state, err.Error()
	var ue *ui.Error
	if errors.As(err, &ue) {
		c.Detail, c.Fix = ue.Message, append(c.Fix, ue.HintLines()...)
	}
	return c
}

// NetworksCheck looks for routes and firewalls that conflict with aivm's networks: the existing
// ones, and the one that the next VM would get.
func (e Part) NetworksCheck(d DoctorFacts) host.Check {
	c := host.Check{ID: "networks", Label: "Bridges, subnets, routes", State: host.OK}
	if d.Net.Routes.Err != nil {
		c.State, c.Detail = host.Unknown, fmt.Sprintf("the routes cannot be read: %v", d.Net.Routes.Err)
		return c
	}
	c.Evidence = append(c.Evidence, fmt.Sprintf("/proc/net/route: %d routes, %d interfaces", len(d.Net.Routes.Value), len(d.Net.Interfaces)))
	var good, bad []string
	for _, n := range d.Net.Networks.Value {
		if !n.Mark.By(e.UID) {
			continue
		}
		c.Evidence = append(c.Evidence, fmt.Sprintf("network %s: bridge %s, %s, running %v", n.Name, n.Bridge, n.Subnet, n.Active))
		stolen, hides := d.Net.OverlappingRoutes(n)
		switch {
		case stolen != "":
			bad = append(bad, fmt.Sprintf("a route sends the packets for network %s (%s) to %s: its VMs cannot be reached", n.Name, n.Subnet, stolen))
			c.Fix = append(c.Fix, "find the route, of a VPN or another bridge, and remove it: ip -4 route show")
		case hides != "":
			good = append(good, fmt.Sprintf("%s on %s (the wider route through %s does not affect it; hosts behind that route with these addresses cannot be reached from this machine)", n.Name, n.Subnet, hides))
		default:
			good = append(good, fmt.Sprintf("%s on %s", n.Name, n.Subnet))
		}
	}
	for _, m := range d.StaleFirewalls.Value {
		bad = append(bad, fmt.Sprintf("stale firewall of network %s, which libvirt no longer has", m.Wall.Network))
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
	if d.StaleFirewalls.Err != nil {
		c.State, c.Detail = host.Unknown, fmt.Sprintf("stale firewalls are not known: %v", d.StaleFirewalls.Err)
	}
	if err := d.Net.Networks.Err; err != nil {
		c.State = host.Unknown
		c.Detail = fmt.Sprintf("no route conflicts with the default network; libvirt's networks are not known: %v", err)
		if errors.Is(err, virt.ErrDenied) {
			c.Fix = []string{"aivm host doctor --sudo"}
		}
	}
	return c
}

// nextNetwork names the network that the next VM would get; "" if that network exists already.
func (e Part) nextNetwork(d DoctorFacts) (string, error) {
	w := &target.Target{Store: d.store.Value, NetworkSpec: d.store.Value.Config.Defaults.Network}
	f := d.Net
	f.Networks.Err = nil // if unknown, only routes and interfaces are checked for conflicts
	spec, err := network.Choose(f, w.NetworkSpec, e.UID, !w.AutoNet())
	if err != nil {
		return "", err
	}
	for _, n := range f.Networks.Value {
		if n.Name == spec.Name {
			return "", nil
		}
	}
	if spec.SubnetCIDR != w.NetworkSpec.SubnetCIDR {
		return fmt.Sprintf("the first VM gets %s on %s, since %s is taken", spec.Name, spec.SubnetCIDR, w.NetworkSpec.SubnetCIDR), nil
	}
	return fmt.Sprintf("the first VM gets %s on %s, which is free", spec.Name, spec.SubnetCIDR), nil
}

// SSHConfigCheck checks that ssh can read the user's configuration, and that each VM's alias has the
// options that aivm wrote.
func (e Part) SSHConfigCheck(d DoctorFacts) host.Check {
	c := host.Check{ID: "ssh-config", Label: "SSH configuration", State: host.OK}
	if d.Host.Tools["ssh"] == "" {
		c.State, c.Detail = host.Skipped, "ssh is not installed"
		return c
	}
	if d.sshErr != nil {
		if errors.Is(d.sshErr, sshcfg.ErrReadOnly) {
			return verdict(c, host.Unknown, d.sshErr)
		}
		return verdict(c, host.Bad, d.sshErr)
	}
	c.Evidence = append(c.Evidence, "ssh -G: reads it completely")
	for _, g := range d.staleIncludes {
		c.Evidence = append(c.Evidence, g.String())
	}
	var good, bad []string
	for _, p := range d.VMs {
		if errors.Is(p.err, sshcfg.ErrReadOnly) {
			return verdict(c, host.Unknown, p.err)
		}
		name := p.want.Name
		added, excludes := p.additions()
		detail, fix := p.fault()
		switch {
		case p.err != nil:
			bad, c.Fix = append(bad, name+": "+detail), fix
		case detail != "":
			bad, c.Fix = append(bad, fmt.Sprintf("ssh %s does not reach its VM: %s", name, detail)), append(c.Fix, fix...)
		case len(added) > 0:
			bad, c.Fix = append(bad, fmt.Sprintf("ssh %s: %s", name, strings.Join(added, "; "))), append(c.Fix, excludes...)
		case p.inst != nil:
			good = append(good, name)
			c.Evidence = append(c.Evidence, fmt.Sprintf("ssh %s: %s", name, map[bool]string{true: "logs in", false: "no login was tried"}[p.loggedIn]))
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

// ignored reports whether the warning is about something without effect.
func ignored(w config.Warning) bool { return !w.Used }

// StoreCheck checks that the config can be read without errors and warnings.
func StoreCheck(d DoctorFacts) host.Check {
	c := host.Check{ID: "config", Label: "Config", State: host.OK}
	switch {
	case d.store.Err != nil:
		c = verdict(c, host.Bad, d.store.Err)
		if len(c.Fix) == 0 {
			c.Fix = []string{"aivm config lint", "aivm config edit"}
		}
	case slices.ContainsFunc(d.store.Value.Warnings, ignored):
		w := d.store.Value.Warnings[slices.IndexFunc(d.store.Value.Warnings, ignored)]
		c.State, c.Detail, c.Fix = host.Bad, session.WarningText(d.store.Value.Path, w), []string{"aivm config lint"}
	default:
		c.Evidence = []string{d.store.Value.Path + ": valid"}
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
