// Package wall renders what a guest may reach (internal/policy) as rules of
// nftables, and looks up which networks are this machine's own business.
//
// It owns the one generator of rules. The privileged helper and the libvirt hook
// take a policy and make the rules themselves, so that nobody who can talk to
// them can load rules of his own. It runs nothing and changes nothing;
// LocalNetworks reads this machine's addresses and routes.
//
// Invariants: the rules touch no table but the three named by Tables; a ruleset
// replaces the one before in one transaction; whatever is not allowed from the
// guest to this machine is dropped.
package wall

import (
	"net/netip"

	"aivm.dev/aivm/internal/policy"
)

// What callers know by the names it has here is internal/policy's.
type (
	Wall     = policy.Network
	Ports    = policy.Ports
	Endpoint = policy.Endpoint
	Guest    = policy.Guest
	Claim    = policy.Claim
)

// Claims is all that is promised; see internal/policy.
var Claims = policy.Claims

// ValidNetwork reports whether s can name a network that has a wall.
func ValidNetwork(s string) bool { return policy.ValidNetwork(s) }

// Sentence says what the guests of a wall reach and what they do not.
func Sentence(w Wall) string { return policy.Sentence(w) }

// ParsePorts reads "443" or "8000-8100".
func ParsePorts(proto, s string) (Ports, error) { return policy.ParsePorts(proto, s) }

// ParseEndpoint reads "10.1.2.3:5432" and the like; see internal/policy.
func ParseEndpoint(s string) (Endpoint, error) { return policy.ParseEndpoint(s) }

// ParseNet reads a network, or an address that stands for itself.
func ParseNet(s string) (netip.Prefix, error) { return policy.ParseNet(s) }
