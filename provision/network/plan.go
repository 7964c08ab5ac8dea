package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"libvirt.org/go/libvirtxml"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/virt"
)

// Libvirt is the part of libvirt that plans of this package use.
type Libvirt interface {
	DefineNetwork(ctx context.Context, desc string) error
	StartNetwork(ctx context.Context, name string) error
	Reserve(ctx context.Context, network string, r virt.Reservation) error
	Network(ctx context.Context, name string) (*virt.Network, error)
	HideHosts(ctx context.Context, name string) error
}

// Wanted is the network a VM needs, and its address there.
type Wanted struct {
	Spec  config.NetworkSpec
	Owner int
	VM    string
	MAC   string
	IP    netip.Addr
}

// XML renders the network's definition: NAT, one IPv4 subnet, no IPv6. The network's dnsmasq
// resolves the guests' names, but not those of the host's /etc/hosts.
func XML(spec config.NetworkSpec, owner int) (string, error) {
	sub, err := netip.ParsePrefix(spec.SubnetCIDR)
	if err != nil {
		return "", fmt.Errorf("subnet_cidr %q: %w", spec.SubnetCIDR, err)
	}
	x := libvirtxml.Network{
		Name:     spec.Name,
		Metadata: &libvirtxml.NetworkMetadata{XML: virt.MarkXML(owner)},
		Forward:  &libvirtxml.NetworkForward{Mode: "nat"},
		Bridge:   &libvirtxml.NetworkBridge{Name: spec.Bridge, STP: "on", Delay: "0"},
		IPs: []libvirtxml.NetworkIP{{
			Address: spec.GatewayIP,
			Prefix:  uint(sub.Bits()),
			DHCP:    &libvirtxml.NetworkDHCP{Ranges: []libvirtxml.NetworkDHCPRange{{Start: spec.DHCPStart, End: spec.DHCPEnd}}},
		}},
		DnsmasqOptions: virt.DnsmasqOptions(),
	}
	return x.Marshal()
}

// Plan returns the actions missing for the wanted network and reservation. Creating the network
// needs consent, starting it again does not.
func Plan(f Facts, w Wanted, lv func() (Libvirt, error)) ([]plan.Action, error) {
	if f.Networks.Err != nil {
		return nil, fmt.Errorf("reading libvirt's networks: %w", f.Networks.Err)
	}
	if err := Conflict(f, w.Spec, w.Owner); err != nil {
		return nil, err
	}
	n := f.find(w.Spec.Name)
	var out []plan.Action
	if n == nil {
		out = append(out, plan.Action{
			ID:      "network.define:" + w.Spec.Name,
			Why:     fmt.Sprintf("create the NAT network %s (%s, bridge %s) for aivm's VMs", w.Spec.Name, w.Spec.SubnetCIDR, w.Spec.Bridge),
			Shows:   []string{"virsh net-define (" + w.Spec.Name + ")"},
			Consent: plan.Ask, Timing: "define",
			Do: func(ctx context.Context) error {
				l, err := lv()
				if err != nil {
					return err
				}
				return define(ctx, l, w)
			},
		})
	}
	if n != nil && n.HostsFile {
		out = append(out, plan.Action{
			ID:     "network.hosts:" + n.Name,
			Why:    "stop resolving names of this machine's /etc/hosts for guests of network " + n.Name + ", from its next start on",
			Shows:  []string{"virsh net-define (" + n.Name + ", with dnsmasq's option " + virt.NoHosts + ")"},
			Timing: "define",
			Do: func(ctx context.Context) error {
				l, err := lv()
				if err != nil {
					return err
				}
				return l.HideHosts(ctx, n.Name)
			},
		})
	}
	// Reserve before the start: for every reservation a running network reloads its DHCP service
	// and its rules, which takes half a second.
	if w.VM != "" && (n == nil || !reserved(n, w)) {
		out = append(out, plan.Action{
			ID:    "network.reserve:" + w.VM,
			Why:   fmt.Sprintf("reserve address %s for VM %s", w.IP, w.VM),
			Shows: []string{fmt.Sprintf("virsh net-update %s add ip-dhcp-host \"<host mac='%s' name='%s' ip='%s'/>\"", w.Spec.Name, w.MAC, w.VM, w.IP)},
			// The consent to create the VM includes this; restoring a reservation needs none.
			Timing: "define",
			Do: func(ctx context.Context) error {
				l, err := lv()
				if err != nil {
					return err
				}
				return reserve(ctx, l, w)
			},
		})
	}
	if n == nil || !n.Active || !n.Autostart {
		out = append(out, plan.Action{
			ID:    "network.start:" + w.Spec.Name,
			Why:   "start network " + w.Spec.Name,
			Shows: []string{"virsh net-start " + w.Spec.Name, "virsh net-autostart " + w.Spec.Name}, Timing: "define",
			Do: func(ctx context.Context) error {
				l, err := lv()
				if err != nil {
					return err
				}
				return start(ctx, l, w.Spec)
			},
		})
	}
	return out, nil
}

func reserved(n *virt.Network, w Wanted) bool {
	for _, h := range n.Hosts {
		if strings.EqualFold(h.MAC, w.MAC) && h.IP == w.IP {
			return true
		}
	}
	return false
}

// define creates the network. If another run, for another VM or user, created one of that name
// since the plan, it returns ErrStale, and the next observation shows its owner and settings.
func define(ctx context.Context, l Libvirt, w Wanted) error {
	desc, err := XML(w.Spec, w.Owner)
	if err != nil {
		return err
	}
	err = l.DefineNetwork(ctx, desc)
	if err == nil {
		return nil
	}
	switch _, nerr := l.Network(ctx, w.Spec.Name); {
	case errors.Is(nerr, virt.ErrNotFound):
		return err
	case nerr != nil:
		return errors.Join(err, nerr)
	}
	return fmt.Errorf("another process created network %q: %w", w.Spec.Name, plan.ErrStale)
}

// start starts the network. If it was removed since the plan, start returns ErrStale, and the facts
// are observed again.
func start(ctx context.Context, l Libvirt, spec config.NetworkSpec) error {
	err := l.StartNetwork(ctx, spec.Name)
	if errors.Is(err, virt.ErrNotFound) {
		return fmt.Errorf("%w: %w", err, plan.ErrStale)
	}
	if err != nil && ctx.Err() == nil {
		if gateway, perr := netip.ParseAddr(spec.GatewayIP); perr == nil {
			return explainStart(err, spec.Name, spec.Bridge, gateway)
		}
	}
	return err
}

// reserve adds the reservation. If another run took the address since it was chosen, it returns
// ErrStale, and the facts are observed again.
func reserve(ctx context.Context, l Libvirt, w Wanted) error {
	err := l.Reserve(ctx, w.Spec.Name, virt.Reservation{MAC: w.MAC, Name: w.VM, IP: w.IP})
	if err == nil {
		return nil
	}
	n, nerr := l.Network(ctx, w.Spec.Name)
	if nerr != nil {
		return errors.Join(err, nerr)
	}
	if reserved(n, w) {
		return nil
	}
	for _, h := range n.Hosts {
		if h.IP == w.IP {
			return fmt.Errorf("address %s was reserved for VM %s by another process: %w", w.IP, h.Name, plan.ErrStale)
		}
	}
	return err
}
