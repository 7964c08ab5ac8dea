// Package packets tests the firewall with real packets. Network namespaces represent the host, its
// guests, a neighbour on the LAN and the internet; every probe is sent with the firewall rules loaded
// and without them. The tests need root. They leave nothing behind: a namespace exists as long as the
// process in it.
package packets
