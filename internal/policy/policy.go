// Package policy describes as data what a guest may reach and what may reach it: blocked
// networks, ports of the host that are open, exceptions in blocked networks, and the
// MAC and IP address of each guest.
//
// It holds the types, their parsing, validation and comparison, the networks that are
// always blocked, and the sentences that describe a policy (Claims). It reads nothing of
// the host and makes no rules: internal/wall renders a policy as nftables rules. The
// privileged helper accepts a policy and renders the rules itself, so that a process
// that can talk to it cannot load other rules.
//
// Invariants: no string in a policy that passes Check can inject nftables syntax; two
// policies that are Same have the same rules, regardless of order and overlaps in their
// lists.
package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"aivm.dev/aivm/internal/lazyre"
)

// Network is the policy for the guests of one libvirt network.
type Network struct {
	Network string         `json:"network"`
	Prefix  string         `json:"prefix"` // first part of the tables' names
	Bridge  string         `json:"bridge"`
	Subnet  netip.Prefix   `json:"subnet"`
	Gateway netip.Addr     `json:"gateway"`
	Block   []netip.Prefix `json:"block"` // IPv4 and IPv6, in addition to those always blocked
	Ports   []Ports        `json:"ports"` // ports of the host that guests may use
	LAN     []Endpoint     `json:"lan"`   // exceptions in blocked networks
	Guests  []Guest        `json:"guests"`
}

// Ports is a range of ports of one protocol, from First to Last inclusive.
type Ports struct {
	Proto string `json:"proto"` // "tcp" or "udp"
	First uint16 `json:"first"`
	Last  uint16 `json:"last"`
}

func (p Ports) String() string {
	s := strconv.Itoa(int(p.First))
	if p.Last != p.First {
		s += "-" + strconv.Itoa(int(p.Last))
	}
	return s
}

// Endpoint is a service in a blocked network: addresses and ports.
type Endpoint struct {
	Net netip.Prefix `json:"net"`
	Ports
}

func (e Endpoint) String() string {
	host := e.Net.String()
	if e.Net.IsSingleIP() {
		host = e.Net.Addr().String()
	}
	if e.Net.Addr().Is6() {
		host = "[" + host + "]"
	}
	return host + ":" + e.Ports.String() + map[string]string{"udp": "/udp"}[e.Proto]
}

// Guest is one VM of the network: the MAC and IP address it may send from.
type Guest struct {
	MAC string     `json:"mac"` // lower case, colons
	IP  netip.Addr `json:"ip"`
	// Port is the tap device on the host that connects the guest to the bridge, such as
	// vnet7, as reported to libvirt's hook at the VM's last start; "" if it is unknown.
	Port string `json:"port,omitempty"`
}

var (
	networkRE = lazyre.New(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$`)
	bridgeRE  = lazyre.New(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}$`) // IFNAMSIZ
	prefixRE  = lazyre.New(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)
)

// ValidNetwork reports whether s can be the name of a network with a policy.
func ValidNetwork(s string) bool { return networkRE.MatchString(s) }

// limit is the maximum length of each list in a policy.
const limit = 4096

// Check validates the policy, which may come from an untrusted process, and returns the
// first problem.
func (n Network) Check() error {
	switch {
	case !networkRE.MatchString(n.Network):
		return fmt.Errorf("invalid network name %q", n.Network)
	case !bridgeRE.MatchString(n.Bridge):
		return fmt.Errorf("invalid bridge name %q", n.Bridge)
	case !prefixRE.MatchString(n.Prefix):
		return fmt.Errorf("invalid table name %q", n.Prefix)
	case !n.Subnet.IsValid() || !n.Subnet.Addr().Is4() || n.Subnet.Masked() != n.Subnet || n.Subnet.Bits() < 8:
		return fmt.Errorf("invalid subnet %q: it must be an IPv4 network of at least 8 prefix bits", n.Subnet)
	case !n.Subnet.Contains(n.Gateway):
		return fmt.Errorf("gateway %s is not in subnet %s", n.Gateway, n.Subnet)
	case len(n.Block) > limit || len(n.Ports) > limit || len(n.LAN) > limit || len(n.Guests) > limit:
		return fmt.Errorf("more than %d entries in a list", limit)
	}
	for _, p := range n.Block {
		if !Usable(p) {
			return fmt.Errorf("invalid blocked network %q", p)
		}
	}
	for _, p := range n.Ports {
		if err := p.check(); err != nil {
			return err
		}
	}
	for _, e := range n.LAN {
		if !Usable(e.Net) {
			return fmt.Errorf("invalid allowed network %q", e.Net)
		}
		if err := e.check(); err != nil {
			return err
		}
	}
	for _, g := range n.Guests {
		if m, err := net.ParseMAC(g.MAC); err != nil || len(m) != 6 || m.String() != g.MAC {
			return fmt.Errorf("invalid MAC address %q", g.MAC)
		}
		if g.Port != "" && !bridgeRE.MatchString(g.Port) {
			return fmt.Errorf("invalid tap device name %q of guest %s", g.Port, g.MAC)
		}
		if !n.Subnet.Contains(g.IP) {
			return fmt.Errorf("address %s of guest %s is not in subnet %s", g.IP, g.MAC, n.Subnet)
		}
	}
	return nil
}

// Usable reports whether a policy may contain the network: it is valid, has no host bits
// set, and is plain IPv4 or IPv6 without zone.
func Usable(p netip.Prefix) bool {
	return p.IsValid() && p.Masked() == p && p.Addr().Zone() == "" && !p.Addr().Is4In6()
}

func (p Ports) check() error {
	if p.Proto != "tcp" && p.Proto != "udp" || p.First == 0 || p.Last < p.First {
		return fmt.Errorf("invalid port %s/%s", p, p.Proto)
	}
	return nil
}

// Table returns the name of the network's nftables tables. It contains a digest of the
// network's name, so that no two networks share it, and always begins with "aivm", so
// that it never names another program's table.
func (n Network) Table() string {
	prefix := n.Prefix
	if !strings.HasPrefix(prefix, "aivm") {
		prefix = "aivm_" + prefix
	}
	sum := sha256.Sum256([]byte(n.Network))
	name := strings.Map(func(r rune) rune {
		if r == '-' || r == '.' {
			return '_'
		}
		return r
	}, n.Network)
	return prefix + "_" + name + "_" + hex.EncodeToString(sum[:5])
}

// Tables returns the three tables of the network with their family, as in nft commands.
func (n Network) Tables() []string {
	return []string{"inet " + n.Table(), "bridge " + n.Table(), "arp " + n.Table()}
}

// Same reports whether two policies mean the same.
func (n Network) Same(o Network) bool { return reflect.DeepEqual(n.normalize(), o.normalize()) }

// Without returns the policy without the guest of this MAC address.
func (n Network) Without(mac string) Network {
	n.Guests = slices.DeleteFunc(slices.Clone(n.Guests), func(g Guest) bool { return g.MAC == strings.ToLower(mac) })
	return n
}

// With returns the policy with a guest added. If there is a guest with this MAC address,
// its IP address is replaced and its Port kept.
func (n Network) With(mac string, ip netip.Addr) Network {
	port := n.port(mac)
	n = n.Without(mac)
	n.Guests = append(n.Guests, Guest{MAC: strings.ToLower(mac), IP: ip, Port: port})
	return n
}

// OnPort returns the policy with the Port of the guest of this MAC address set; ok is
// false if there is no such guest.
func (n Network) OnPort(mac, port string) (out Network, ok bool) {
	n.Guests = slices.Clone(n.Guests)
	for i, g := range n.Guests {
		if g.MAC == strings.ToLower(mac) {
			n.Guests[i].Port, ok = port, true
		}
	}
	return n, ok
}

// PortsOf returns the policy with the Port of each guest taken from o. Only libvirt's hook
// learns the ports, so a policy made from the config has none.
func (n Network) PortsOf(o Network) Network {
	for _, g := range n.Guests {
		n, _ = n.OnPort(g.MAC, o.port(g.MAC))
	}
	return n
}

// port returns the Port of the guest of this MAC address, "" if there is none.
func (n Network) port(mac string) string {
	for _, g := range n.Guests {
		if g.MAC == strings.ToLower(mac) {
			return g.Port
		}
	}
	return ""
}
