package packets

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// resolve sends a frame and waits for an ARP reply with the MAC address of addr.
func resolve(dev, frame, addr string, limit time.Duration) error {
	b, err := hex.DecodeString(frame)
	if err != nil {
		return err
	}
	i, err := net.InterfaceByName(dev)
	if err != nil {
		return err
	}
	const arps = 0x0608 // ETH_P_ARP in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, arps)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: arps, Ifindex: i.Index}); err != nil {
		return err
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 20000}); err != nil {
		return err
	}
	if err := send(dev, b); err != nil {
		return err
	}
	want := append([]byte{0, 2}, make([]byte, 10)...)
	copy(want[8:], netip.MustParseAddr(addr).AsSlice())
	got := make([]byte, 1500)
	for end := time.Now().Add(limit); time.Now().Before(end); {
		n, err := unix.Read(fd, got)
		if err != nil || n < 42 {
			continue
		}
		copy(want[2:8], got[22:28]) // any MAC address is accepted
		if bytes.Equal(got[20:32], want) {
			return nil
		}
	}
	return fmt.Errorf("no ARP reply for %s", addr)
}

// arpRequest returns a frame with an ARP request for addr. hardware is the hardware type: 1 for
// Ethernet; the kernel treats 6, IEEE 802, in the same way.
func arpRequest(hardware byte, card, from, addr string) []byte {
	b := arp(card, from, addr)
	b[1], b[7] = hardware, 1
	return ethernet("ff:ff:ff:ff:ff:ff", card, kindARP, b)
}

// arpProbes returns probes of the host's ARP replies for its addresses.
func arpProbes() []probe {
	var out []probe
	add := func(claim, name, addr string, frame []byte) {
		out = append(out, probe{
			claim: claim, open: claim == "gateway", name: "ARP for " + addr + name,
			send: on(one, request{Op: "resolve", Dev: "eth0", Addr: addr, Data: text(frame)}),
		})
	}
	add("gateway", "", "10.77.0.1", arpRequest(1, card1, "10.77.0.10", "10.77.0.1"))
	add("gateway", " from a guest without an address", "10.77.0.1", arpRequest(1, card1, "0.0.0.0", "10.77.0.1"))
	for _, a := range []string{"203.0.113.2", "198.18.5.1", "10.78.0.1"} {
		add("host", "", a, arpRequest(1, card1, "10.77.0.10", a))
		add("host", ", IEEE 802", a, arpRequest(6, card1, "10.77.0.10", a))
		add("host", " from a guest without an address", a, arpRequest(1, card1, "0.0.0.0", a))
		add("host", " from an unknown MAC address", a, arpRequest(1, unknownMAC, "9.9.9.9", a))
	}
	return out
}
