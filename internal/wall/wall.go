// Package wall renders a policy (internal/policy) as nftables rules, and finds the
// networks the host is connected to.
//
// It is the only generator of rules. The privileged helper and the libvirt hook accept a
// policy and render the rules with it, so that a process that can talk to them cannot
// load other rules. The package runs no program and changes nothing; LocalNetworks reads
// the host's addresses and routes.
//
// Invariants: the rules touch only the three tables named by Tables; a ruleset replaces
// the previous one in one transaction; everything from a guest to the host that is not
// allowed is dropped.
package wall

import (
	"net/netip"

	"aivm.dev/aivm/internal/policy"
)

// These are the types of internal/policy, under the names callers of this package use.
type (
	Wall     = policy.Network
	Ports    = policy.Ports
	Endpoint = policy.Endpoint
	Guest    = policy.Guest
	Claim    = policy.Claim
)

// Claims is policy.Claims.
var Claims = policy.Claims

// ValidNetwork calls policy.ValidNetwork.
func ValidNetwork(s string) bool { return policy.ValidNetwork(s) }

// Sentence calls policy.Sentence.
func Sentence(w Wall) string { return policy.Sentence(w) }

// ParsePorts calls policy.ParsePorts.
func ParsePorts(proto, s string) (Ports, error) { return policy.ParsePorts(proto, s) }

// ParseEndpoint calls policy.ParseEndpoint.
func ParseEndpoint(s string) (Endpoint, error) { return policy.ParseEndpoint(s) }

// ParseNet calls policy.ParseNet.
func ParseNet(s string) (netip.Prefix, error) { return policy.ParseNet(s) }
