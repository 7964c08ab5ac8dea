// Package network plans the libvirt network of a VM: it chooses a free subnet, renders the
// network's XML, and gives each VM a fixed address (MAC and DHCP reservation), so that the address
// is known before the guest boots.
//
// It never touches a network that aivm did not make for this user, and never changes routes,
// interfaces or firewall rules (provision/firewall plans these). Invariants: a subnet that overlaps
// a route or another network is never used; a MAC and an address belong to one VM.
package network

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
)

// Candidates are the subnets to try, in order. The list is 0.3's: ranges that home and office
// networks rarely use.
var Candidates = []string{
	"10.77.0.0/24", "10.78.0.0/24", "10.79.0.0/24", "10.88.0.0/24", "10.99.0.0/24",
	"192.168.77.0/24", "192.168.88.0/24", "10.177.0.0/24", "10.188.0.0/24", "172.30.77.0/24",
}

// Facts are what was read about the host's networks.
type Facts struct {
	Libvirt    virt.URI // where Networks were read
	Networks   plan.Known[[]*virt.Network]
	Routes     plan.Known[[]Route]
	Interfaces []string // the names of all network interfaces
}

// find returns the libvirt network of that name, or nil.
func (f Facts) find(name string) *virt.Network {
	for _, n := range f.Networks.Value {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// Choose fills in name, bridge and the first free subnet of a network that does not exist yet.
// fixed means that the user wrote the spec: then a conflict is refused instead of avoided.
func Choose(f Facts, spec config.NetworkSpec, owner int, fixed bool) (config.NetworkSpec, error) {
	if f.Networks.Err != nil {
		return spec, fmt.Errorf("reading libvirt's networks: %w", f.Networks.Err)
	}
	if n := f.find(spec.Name); n != nil && n.Mark.By(owner) {
		if fixed {
			return spec, nil
		}
		return fromNetwork(spec, n), nil
	}
	if fixed {
		return spec, Conflict(f, spec, owner)
	}
	base, bridge := spec.Name, spec.Bridge
	for i := 1; i < 100; i++ {
		if i > 1 {
			spec.Name, spec.Bridge = fmt.Sprintf("%s-%d", base, i), numbered(bridge, i)
		}
		if n := f.find(spec.Name); n != nil && n.Mark.By(owner) {
			return fromNetwork(spec, n), nil
		}
		if f.find(spec.Name) != nil || f.bridgeTaken(spec.Bridge) {
			continue
		}
		sub, err := f.freeSubnet(spec.SubnetCIDR)
		if err != nil {
			return spec, err
		}
		return on(spec, sub), nil
	}
	return spec, ui.Refused("no free network name like %q", base).Hint(ui.Cmd(f.Libvirt.Virsh("net-list --all")))
}

// ChooseForName fills in bridge and subnet, the first free ones, of a network that does not exist
// yet and whose name the user chose.
func ChooseForName(f Facts, spec config.NetworkSpec, owner int) (config.NetworkSpec, error) {
	if f.Networks.Err != nil {
		return spec, fmt.Errorf("reading libvirt's networks: %w", f.Networks.Err)
	}
	if n := f.find(spec.Name); n != nil {
		if err := Conflict(f, spec, owner); err != nil {
			return spec, err
		}
		return fromNetwork(spec, n), nil
	}
	base := spec.Bridge
	for i := 2; f.bridgeTaken(spec.Bridge); i++ {
		if i > 99 {
			return spec, ui.Refused("no free bridge name like %q", base).Hint(ui.Cmd("ip link show type bridge"))
		}
		spec.Bridge = numbered(base, i)
	}
	sub, err := f.freeSubnet(spec.SubnetCIDR)
	if err != nil {
		return spec, err
	}
	return on(spec, sub), nil
}

// numbered returns the i-th bridge name like this one; the name of an interface has at most 15
// characters (IFNAMSIZ).
func numbered(bridge string, i int) string {
	return fmt.Sprintf("%s%d", bridge[:min(len(bridge), 13)], i)
}

// SpecOf returns the config's spec of a libvirt network.
func SpecOf(n *virt.Network) config.NetworkSpec {
	return fromNetwork(config.NetworkSpec{Name: n.Name}, n)
}

func fromNetwork(spec config.NetworkSpec, n *virt.Network) config.NetworkSpec {
	spec.Bridge, spec.SubnetCIDR, spec.GatewayIP, spec.DHCPStart, spec.DHCPEnd = n.Bridge, n.Subnet.Masked().String(), n.Gateway.String(), "", ""
	return spec.Filled()
}

func (f Facts) bridgeTaken(name string) bool {
	for _, i := range f.Interfaces {
		if i == name {
			return true
		}
	}
	for _, n := range f.Networks.Value {
		if n.Bridge == name {
			return true
		}
	}
	return false
}

func (f Facts) freeSubnet(first string) (netip.Prefix, error) {
	for _, c := range append([]string{first}, Candidates...) {
		p, err := netip.ParsePrefix(c)
		if err != nil {
			continue
		}
		if f.overlap(p, "") == "" {
			return p.Masked(), nil
		}
	}
	return netip.Prefix{}, ui.Refused("every subnet that aivm tries is in use on this machine").
		Hint(ui.CmdFor("set defaults.network.subnet_cidr to a free subnet in the config", "aivm config edit"))
}

// overlap names a route or network that uses addresses of p, or returns "".
func (f Facts) overlap(p netip.Prefix, ownBridge string) string {
	for _, r := range f.Routes.Value {
		if r.Dst.Bits() > 0 && r.Dst.Overlaps(p) && r.Interface != ownBridge {
			return fmt.Sprintf("route %s via %s", r.Dst, r.Interface)
		}
	}
	for _, n := range f.Networks.Value {
		if n.Subnet.IsValid() && n.Subnet.Overlaps(p) && n.Bridge != ownBridge {
			return fmt.Sprintf("libvirt network %q (%s)", n.Name, n.Subnet)
		}
	}
	return ""
}

// on returns spec with the subnet p: unchanged if it has that already, with the gateway and DHCP range
// that the user may have set, else with those that follow from p.
func on(spec config.NetworkSpec, p netip.Prefix) config.NetworkSpec {
	if is, err := netip.ParsePrefix(spec.SubnetCIDR); err == nil && is.Masked() == p.Masked() {
		return spec
	}
	return spec.OnSubnet(p)
}

// Conflict returns the reason why a network of this spec cannot be created, or nil.
func Conflict(f Facts, spec config.NetworkSpec, owner int) error {
	sub, err := netip.ParsePrefix(spec.SubnetCIDR)
	if err != nil {
		return ui.Refused("network %q: subnet_cidr %q is not a subnet", spec.Name, spec.SubnetCIDR).Hint(ui.Cmd("aivm config edit"))
	}
	if n := f.find(spec.Name); n != nil {
		if !n.Mark.By(owner) {
			return ui.Refused("network %q exists and was not made by aivm for this user", spec.Name).
				Hint(ui.CmdFor("set another name in the config (defaults.network.name)", "aivm config edit"), ui.Cmd(f.Libvirt.Virsh("net-dumpxml ")+spec.Name))
		}
		return nil
	}
	key, problem := spec.Misfit()
	if key == "" {
		key, problem = spec.NoRoom()
	}
	if key != "" {
		return ui.Refused("network %q: %s %s", spec.Name, key, problem).Hint(ui.Cmd("aivm config edit"))
	}
	if f.bridgeTaken(spec.Bridge) {
		return ui.Refused("bridge %q of network %q is already used by another network or interface", spec.Bridge, spec.Name).
			Hint(ui.CmdFor("set another bridge in the config (defaults.network.bridge)", "aivm config edit"), ui.Cmd("ip link show "+spec.Bridge))
	}
	if f.Routes.Err != nil {
		return ui.Failed("cannot tell whether subnet %s is free: %w", sub, f.Routes.Err)
	}
	if what := f.overlap(sub, spec.Bridge); what != "" {
		return ui.Refused("subnet %s of network %q overlaps %s", sub, spec.Name, what).
			Hint(ui.CmdFor("set another subnet in the config (defaults.network.subnet_cidr)", "aivm config edit"), ui.Cmd("ip -4 route show"))
	}
	return nil
}

// MAC returns the fixed MAC address of a VM: libvirt's prefix (52:54:00) and three bytes of a
// digest, so that after a kill the next run chooses the same address, even if nothing was recorded.
func MAC(vmKey string) string {
	h := sha256.Sum256([]byte("aivm-mac\x00" + vmKey))
	return fmt.Sprintf("52:54:00:%02x:%02x:%02x", h[0], h[1], h[2])
}

// ErrFull means that every address below the DHCP range is reserved.
var ErrFull = errors.New("no free address")

// Address returns the reserved address of the VM with this MAC and true, or the first free address
// below the DHCP range. n may be nil (the network does not exist yet). An address that another
// guest's lease still holds (a deleted VM's, for up to an hour) is taken only if there is no other:
// dnsmasq would not give it to the new VM despite the reservation, and aivm would look for the VM
// at the wrong address.
func Address(spec config.NetworkSpec, n *virt.Network, mac string) (netip.Addr, bool, error) {
	sub, err := netip.ParsePrefix(spec.SubnetCIDR)
	if err != nil {
		return netip.Addr{}, false, fmt.Errorf("subnet_cidr %q: %w", spec.SubnetCIDR, err)
	}
	taken := map[netip.Addr]bool{}
	if n != nil {
		for _, h := range n.Hosts {
			if strings.EqualFold(h.MAC, mac) {
				return h.IP, true, nil
			}
			taken[h.IP] = true
		}
		if n.Subnet.IsValid() {
			sub = n.Subnet
		}
		taken[n.Gateway] = true
	}
	var leasedAddr netip.Addr
	for a := range spec.VMAddresses(sub) {
		if taken[a] {
			continue
		}
		if !leased(n, mac, a) {
			return a, false, nil
		}
		if !leasedAddr.IsValid() {
			leasedAddr = a
		}
	}
	if leasedAddr.IsValid() {
		return leasedAddr, false, nil
	}
	if key, problem := spec.NoRoom(); key != "" {
		return netip.Addr{}, false, ui.Refused("network %q: %s %s", spec.Name, key, problem).Hint(ui.Cmd("aivm config edit"))
	}
	return netip.Addr{}, false, fmt.Errorf("%w for a VM in %s", ErrFull, sub)
}

// leased reports whether a guest with another MAC has a lease on a.
func leased(n *virt.Network, mac string, a netip.Addr) bool {
	return n != nil && slices.ContainsFunc(n.Leases, func(l virt.Reservation) bool {
		return l.IP == a && !strings.EqualFold(l.MAC, mac)
	})
}

// Free reports whether a is an address of the network that no other VM has, so that an incomplete
// VM keeps the address it was given.
func Free(spec config.NetworkSpec, n *virt.Network, mac string, a netip.Addr) bool {
	sub, err := netip.ParsePrefix(spec.SubnetCIDR)
	if err != nil || !sub.Contains(a) || a.String() == spec.GatewayIP {
		return false
	}
	if n != nil {
		for _, h := range n.Hosts {
			if h.IP == a {
				return false
			}
		}
	}
	if leased(n, mac, a) {
		return false
	}
	start, end := rangeOf(spec)
	return !start.IsValid() || a.Compare(start) < 0 || a.Compare(end) > 0
}

func rangeOf(spec config.NetworkSpec) (start, end netip.Addr) {
	start, err1 := netip.ParseAddr(spec.DHCPStart)
	end, err2 := netip.ParseAddr(spec.DHCPEnd)
	if err1 != nil || err2 != nil {
		return netip.Addr{}, netip.Addr{}
	}
	return start, end
}
