// Package policy says what a guest may be reached by and what it may reach, as
// data: networks, addresses and ports that are blocked, this machine's ports
// that are open, exceptions in blocked networks, and which guest is whose.
//
// It owns the types, what a person may write for them, their check, their
// comparison, what is blocked in any case, and the sentences that say all of it
// (Claims). It reads nothing of the machine and makes no rules: internal/wall
// renders a policy for nftables. The privileged helper takes a policy and has
// the rules made itself, so that nobody who can talk to it can load others.
//
// Invariants: a policy that passes Check has no word in it that a rule could be
// made of; two that are Same have the same rules, whatever the order and the
// overlaps of their lists.
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

// Network is what holds for the guests of one libvirt network.
type Network struct {
	Network string         `json:"network"`
	Prefix  string         `json:"prefix"` // of the tables' name
	Bridge  string         `json:"bridge"`
	Subnet  netip.Prefix   `json:"subnet"`
	Gateway netip.Addr     `json:"gateway"`
	Block   []netip.Prefix `json:"block"` // IPv4 and IPv6, beyond what is always blocked
	Ports   []Ports        `json:"ports"` // of this machine, open to guests
	LAN     []Endpoint     `json:"lan"`   // open although blocked
	Guests  []Guest        `json:"guests"`
}

// Ports is a range of ports of one protocol.
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

// Endpoint is a service somewhere in a blocked range.
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

// Guest is one VM of the network: the only source its card may name.
type Guest struct {
	MAC string     `json:"mac"` // lower case, colons
	IP  netip.Addr `json:"ip"`
	// Port is the card of this machine the guest hangs on, as libvirt's hook
	// saw it when the VM started last; "" if it did not.
	Port string `json:"port,omitempty"`
}

var (
	networkRE = lazyre.New(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$`)
	bridgeRE  = lazyre.New(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}$`) // IFNAMSIZ
	prefixRE  = lazyre.New(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)
)

// ValidNetwork reports whether s can name a network that has a wall.
func ValidNetwork(s string) bool { return networkRE.MatchString(s) }

// limit bounds every list of a policy.
const limit = 4096

// Check says what is wrong with the parameters, wherever they came from.
func (n Network) Check() error {
	switch {
	case !networkRE.MatchString(n.Network):
		return fmt.Errorf("network name %q", n.Network)
	case !bridgeRE.MatchString(n.Bridge):
		return fmt.Errorf("bridge name %q", n.Bridge)
	case !prefixRE.MatchString(n.Prefix):
		return fmt.Errorf("table name %q", n.Prefix)
	case !n.Subnet.IsValid() || !n.Subnet.Addr().Is4() || n.Subnet.Masked() != n.Subnet || n.Subnet.Bits() < 8:
		return fmt.Errorf("subnet %q", n.Subnet)
	case !n.Subnet.Contains(n.Gateway):
		return fmt.Errorf("gateway %s is not in subnet %s", n.Gateway, n.Subnet)
	case len(n.Block) > limit || len(n.Ports) > limit || len(n.LAN) > limit || len(n.Guests) > limit:
		return fmt.Errorf("more than %d entries in a list", limit)
	}
	for _, p := range n.Block {
		if !Usable(p) {
			return fmt.Errorf("blocked network %q", p)
		}
	}
	for _, p := range n.Ports {
		if err := p.check(); err != nil {
			return err
		}
	}
	for _, e := range n.LAN {
		if !Usable(e.Net) {
			return fmt.Errorf("allowed network %q", e.Net)
		}
		if err := e.check(); err != nil {
			return err
		}
	}
	for _, g := range n.Guests {
		if m, err := net.ParseMAC(g.MAC); err != nil || len(m) != 6 || m.String() != g.MAC {
			return fmt.Errorf("hardware address %q", g.MAC)
		}
		if g.Port != "" && !bridgeRE.MatchString(g.Port) {
			return fmt.Errorf("port %q of a guest", g.Port)
		}
		if !n.Subnet.Contains(g.IP) {
			return fmt.Errorf("address %s of a guest is not in subnet %s", g.IP, n.Subnet)
		}
	}
	return nil
}

// Usable reports whether a network can stand in a policy: a whole one, of plain
// IPv4 or IPv6.
func Usable(p netip.Prefix) bool {
	return p.IsValid() && p.Masked() == p && p.Addr().Zone() == "" && !p.Addr().Is4In6()
}

func (p Ports) check() error {
	if p.Proto != "tcp" && p.Proto != "udp" || p.First == 0 || p.Last < p.First {
		return fmt.Errorf("port %s/%s", p, p.Proto)
	}
	return nil
}

// Table is the name the tables of the network have. It carries a digest of
// the network's name, so that two networks never share one, and always begins
// with "aivm", so that nobody else's table can be meant.
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

// Tables are the tables the rules live in, as nft names them.
func (n Network) Tables() []string {
	return []string{"inet " + n.Table(), "bridge " + n.Table(), "arp " + n.Table()}
}

// Same reports whether two policies come to the same.
func (n Network) Same(o Network) bool { return reflect.DeepEqual(n.meant(), o.meant()) }

// Without returns the policy with the guest of this card taken out.
func (n Network) Without(mac string) Network {
	n.Guests = slices.DeleteFunc(slices.Clone(n.Guests), func(g Guest) bool { return g.MAC == strings.ToLower(mac) })
	return n
}

// With returns the policy with a guest added; a card has one address, and stays
// on its port.
func (n Network) With(mac string, ip netip.Addr) Network {
	port := n.port(mac)
	n = n.Without(mac)
	n.Guests = append(n.Guests, Guest{MAC: strings.ToLower(mac), IP: ip, Port: port})
	return n
}

// OnPort returns the policy with the guest of this card on that port, "" for
// none; ok is false if there is no such guest.
func (n Network) OnPort(mac, port string) (out Network, ok bool) {
	n.Guests = slices.Clone(n.Guests)
	for i, g := range n.Guests {
		if g.MAC == strings.ToLower(mac) {
			n.Guests[i].Port, ok = port, true
		}
	}
	return n, ok
}

// PortsOf returns the policy with its guests on the ports they have in another:
// only the hook knows them.
func (n Network) PortsOf(o Network) Network {
	for _, g := range n.Guests {
		n, _ = n.OnPort(g.MAC, o.port(g.MAC))
	}
	return n
}

func (n Network) port(mac string) string {
	for _, g := range n.Guests {
		if g.MAC == strings.ToLower(mac) {
			return g.Port
		}
	}
	return ""
}
