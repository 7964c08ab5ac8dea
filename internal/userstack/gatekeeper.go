package userstack

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
)

// EtherTypes, protocols and the codes of "destination unreachable" used here.
const (
	typeIPv4 = 0x0800
	typeARP  = 0x0806

	protocolICMP = 1
	protocolTCP  = 6
	protocolUDP  = 17

	portUnreachable     = 3
	protocolUnreachable = 2
	prohibited          = 13

	ipv4Header = 20
	dnsPort    = 53
)

// gatekeeper decides what happens to a frame of the guest. It holds no state.
type gatekeeper struct {
	guest, gateway       netip.Addr
	guestMAC, gatewayMAC net.HardwareAddr
}

// verdict is what happens to a frame: at most one of the fields is set; none: dropped.
type verdict struct {
	packet []byte // an IPv4 packet for the stack
	arp    []byte // an ARP answer for the guest
	icmp   []byte // an IPv4 packet that refuses the guest's
}

// judge checks a frame: the addresses must be the guest's own, the packet a complete IPv4
// packet without options. TCP goes to the stack, and DNS and echo requests to the
// gateway; ARP for the gateway is answered; other unicast is refused by ICMP.
func (g *gatekeeper) judge(frame []byte) verdict {
	if len(frame) < ethernetSize || !bytes.Equal(frame[6:12], g.guestMAC) {
		return verdict{}
	}
	payload := frame[ethernetSize:]
	switch binary.BigEndian.Uint16(frame[12:]) {
	case typeARP:
		return verdict{arp: g.answerARP(payload)}
	case typeIPv4:
		if bytes.Equal(frame[:6], g.gatewayMAC) {
			return g.judgeIPv4(payload)
		}
	}
	return verdict{}
}

func (g *gatekeeper) judgeIPv4(p []byte) verdict {
	if len(p) < ipv4Header || p[0] != 4<<4|ipv4Header/4 {
		return verdict{}
	}
	total := int(binary.BigEndian.Uint16(p[2:]))
	if total < ipv4Header || total > len(p) {
		return verdict{}
	}
	p = p[:total] // short frames are padded
	const moreFragmentsAndOffset = 0x3fff
	if binary.BigEndian.Uint16(p[6:])&moreFragmentsAndOffset != 0 {
		return verdict{}
	}
	from, to := netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20]))
	if from != g.guest || to == g.guest || to.IsMulticast() || to.IsUnspecified() || p[16] == 255 {
		return verdict{}
	}
	body := p[ipv4Header:]
	switch p[9] {
	case protocolTCP:
		return verdict{packet: p}
	case protocolUDP:
		if len(body) >= 8 && to == g.gateway && binary.BigEndian.Uint16(body[2:]) == dnsPort {
			return verdict{packet: p}
		}
		return verdict{icmp: g.unreachable(p, portUnreachable)}
	case protocolICMP:
		const echoRequest = 8
		if len(body) < 8 || body[0] != echoRequest || body[1] != 0 {
			return verdict{} // an ICMP error is never sent for one
		}
		if to == g.gateway {
			return verdict{packet: p}
		}
		return verdict{icmp: g.unreachable(p, prohibited)}
	}
	return verdict{icmp: g.unreachable(p, protocolUnreachable)}
}

// answerARP answers the guest's question for the gateway, nil for anything else.
func (g *gatekeeper) answerARP(p []byte) []byte {
	const size = 28
	request := []byte{0, 1, 8, 0, 6, 4, 0, 1} // Ethernet, IPv4, sizes, request
	if len(p) < size || !bytes.Equal(p[:8], request) || !bytes.Equal(p[8:14], g.guestMAC) {
		return nil
	}
	guest, gateway := g.guest.As4(), g.gateway.As4()
	// The sender's address may be unset: a probe before the address is in use.
	if !bytes.Equal(p[24:28], gateway[:]) || !bytes.Equal(p[14:18], guest[:]) && !bytes.Equal(p[14:18], make([]byte, 4)) {
		return nil
	}
	out := make([]byte, size)
	copy(out, request)
	out[7] = 2 // reply
	copy(out[8:], g.gatewayMAC)
	copy(out[14:], gateway[:])
	copy(out[18:], g.guestMAC)
	copy(out[24:], p[14:18])
	return out
}

// unreachable returns the ICMP error, from the gateway, that refuses packet p.
func (g *gatekeeper) unreachable(p []byte, code byte) []byte {
	const icmpHeader = 8
	quoted := p[:min(len(p), ipv4Header+8)]
	out := make([]byte, ipv4Header+icmpHeader+len(quoted))
	out[0], out[8], out[9] = p[0], 64, protocolICMP
	binary.BigEndian.PutUint16(out[2:], uint16(len(out)))
	gateway, guest := g.gateway.As4(), g.guest.As4()
	copy(out[12:], gateway[:])
	copy(out[16:], guest[:])
	binary.BigEndian.PutUint16(out[10:], ^checksum.Checksum(out[:ipv4Header], 0))
	icmp := out[ipv4Header:]
	icmp[0], icmp[1] = 3, code
	copy(icmp[icmpHeader:], quoted)
	binary.BigEndian.PutUint16(icmp[2:], ^checksum.Checksum(icmp, 0))
	return out
}
