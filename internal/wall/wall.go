// Package wall says what a guest may reach, as data and as nftables rules.
//
// It owns the parameters of a network's wall, their check, and the one
// generator that turns them into a ruleset. The privileged helper and the
// libvirt hook take parameters and make the rules themselves, so that nobody
// who can talk to them can load rules of his own. It runs nothing and changes
// nothing; LocalNetworks reads this machine's addresses and routes.
//
// Invariants: the rules touch no table but the three named by Tables; a ruleset
// replaces the one before in one transaction; whatever is not allowed from the
// guest to this machine is dropped.
package wall

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"aivm.dev/aivm/internal/lazyre"
)

// Wall is what holds for the guests of one libvirt network.
type Wall struct {
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

// limit bounds every list of a Wall.
const limit = 4096

// Check says what is wrong with the parameters, wherever they came from.
func (w Wall) Check() error {
	switch {
	case !networkRE.MatchString(w.Network):
		return fmt.Errorf("network name %q", w.Network)
	case !bridgeRE.MatchString(w.Bridge):
		return fmt.Errorf("bridge name %q", w.Bridge)
	case !prefixRE.MatchString(w.Prefix):
		return fmt.Errorf("table name %q", w.Prefix)
	case !w.Subnet.IsValid() || !w.Subnet.Addr().Is4() || w.Subnet.Masked() != w.Subnet || w.Subnet.Bits() < 8:
		return fmt.Errorf("subnet %q", w.Subnet)
	case !w.Subnet.Contains(w.Gateway):
		return fmt.Errorf("gateway %s is not in subnet %s", w.Gateway, w.Subnet)
	case len(w.Block) > limit || len(w.Ports) > limit || len(w.LAN) > limit || len(w.Guests) > limit:
		return fmt.Errorf("more than %d entries in a list", limit)
	}
	for _, p := range w.Block {
		if !usable(p) {
			return fmt.Errorf("blocked network %q", p)
		}
	}
	for _, p := range w.Ports {
		if err := p.check(); err != nil {
			return err
		}
	}
	for _, e := range w.LAN {
		if !usable(e.Net) {
			return fmt.Errorf("allowed network %q", e.Net)
		}
		if err := e.check(); err != nil {
			return err
		}
	}
	for _, g := range w.Guests {
		if m, err := net.ParseMAC(g.MAC); err != nil || len(m) != 6 || m.String() != g.MAC {
			return fmt.Errorf("hardware address %q", g.MAC)
		}
		if g.Port != "" && !bridgeRE.MatchString(g.Port) {
			return fmt.Errorf("port %q of a guest", g.Port)
		}
		if !w.Subnet.Contains(g.IP) {
			return fmt.Errorf("address %s of a guest is not in subnet %s", g.IP, w.Subnet)
		}
	}
	return nil
}

func usable(p netip.Prefix) bool {
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
func (w Wall) Table() string {
	prefix := w.Prefix
	if !strings.HasPrefix(prefix, "aivm") {
		prefix = "aivm_" + prefix
	}
	sum := sha256.Sum256([]byte(w.Network))
	name := strings.Map(func(r rune) rune {
		if r == '-' || r == '.' {
			return '_'
		}
		return r
	}, w.Network)
	return prefix + "_" + name + "_" + hex.EncodeToString(sum[:5])
}

// Tables are the tables the rules live in, as nft names them.
func (w Wall) Tables() []string {
	return []string{"inet " + w.Table(), "bridge " + w.Table(), "arp " + w.Table()}
}

// Same reports whether two walls have the same rules.
func (w Wall) Same(o Wall) bool {
	return Script(w, nil) == Script(o, nil)
}

// Without returns the wall with the guest of this card taken out.
func (w Wall) Without(mac string) Wall {
	w.Guests = slices.DeleteFunc(slices.Clone(w.Guests), func(g Guest) bool { return g.MAC == strings.ToLower(mac) })
	return w
}

// With returns the wall with a guest added; a card has one address, and stays
// on its port.
func (w Wall) With(mac string, ip netip.Addr) Wall {
	port := w.port(mac)
	w = w.Without(mac)
	w.Guests = append(w.Guests, Guest{MAC: strings.ToLower(mac), IP: ip, Port: port})
	return w
}

// OnPort returns the wall with the guest of this card on that port, "" for
// none; ok is false if there is no such guest.
func (w Wall) OnPort(mac, port string) (out Wall, ok bool) {
	w.Guests = slices.Clone(w.Guests)
	for i, g := range w.Guests {
		if g.MAC == strings.ToLower(mac) {
			w.Guests[i].Port, ok = port, true
		}
	}
	return w, ok
}

// PortsOf returns the wall with its guests on the ports they have in another:
// only the hook knows them.
func (w Wall) PortsOf(o Wall) Wall {
	for _, g := range w.Guests {
		w, _ = w.OnPort(g.MAC, o.port(g.MAC))
	}
	return w
}

func (w Wall) port(mac string) string {
	for _, g := range w.Guests {
		if g.MAC == strings.ToLower(mac) {
			return g.Port
		}
	}
	return ""
}
