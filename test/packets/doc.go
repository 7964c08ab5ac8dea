// Package packets proves the firewall with packets: network namespaces of its
// own are the machine, its guests, the LAN, the internet and a neighbour, and
// every probe of the table is sent with the rules and without them. It needs
// root and nothing else, and leaves nothing behind: a namespace lives as long
// as the process in it.
package packets
