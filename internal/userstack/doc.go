// Package userstack is the network of a one-shot VM, without root: a process of the
// user that speaks Ethernet with QEMU and copies the guest's TCP connections into
// sockets of its own, to public addresses only.
//
// QEMU (-netdev stream over an inherited socket) sends frames; gatekeeper drops what the
// guest may not send and refuses what has no service; gVisor's TCP/IP gets the rest.
// A TCP connection is dialed first and accepted then, so that a refusal is one for the
// guest too. DNS questions to the gateway are answered through the resolvers of this
// machine. Everything else is refused: other UDP, ICMP but to the gateway, IPv6.
//
// Everything a guest sends is hostile. Invariants: no packet reaches this machine's
// loopback, its own addresses, the subnets it is connected to, or private addresses,
// except the addresses in Config.Allow; queues, connections and pending attempts are
// bounded; the process has no file access and few system calls (package confine).
package userstack

import "net/netip"

// The link between guest and gateway. The addresses are from 192.0.0.0/29, which is
// reserved for links that end in one machine, so that no LAN uses them.
const (
	MTU        = 65520
	GuestMAC   = "52:54:00:61:76:02"
	GatewayMAC = "52:54:00:61:76:01"
)

// The guest's address with its subnet, and the gateway's, which answers DNS questions.
var (
	GuestAddress   = netip.MustParsePrefix("192.0.0.2/29")
	GatewayAddress = netip.MustParseAddr("192.0.0.1")
)
