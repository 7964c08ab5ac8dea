package packets

import (
	"encoding/binary"
	"encoding/hex"
	"net"
	"net/netip"
)

// checksum returns the internet checksum of b (RFC 1071).
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

func mac(s string) []byte {
	m, err := net.ParseMAC(s)
	if err != nil {
		panic(err)
	}
	return m
}

func ethernet(to, from string, kind uint16, payload []byte) []byte {
	b := append(append([]byte{}, mac(to)...), mac(from)...)
	return append(binary.BigEndian.AppendUint16(b, kind), payload...)
}

// udp returns a UDP datagram without a checksum, which IPv4 allows.
func udp(from, to uint16, data string) []byte {
	var b []byte
	b = binary.BigEndian.AppendUint16(b, from)
	b = binary.BigEndian.AppendUint16(b, to)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(data)))
	return append(append(b, 0, 0), data...)
}

// ip4 returns an IPv4 packet. offset is that of a fragment, in bytes; more sets "more fragments".
func ip4(from, to string, proto byte, offset int, more bool, payload []byte) []byte {
	h := make([]byte, 20)
	h[0], h[8], h[9] = 0x45, 64, proto
	binary.BigEndian.PutUint16(h[2:], uint16(20+len(payload)))
	binary.BigEndian.PutUint16(h[4:], 0x77)
	flags := uint16(offset / 8)
	if more {
		flags |= 0x2000
	}
	binary.BigEndian.PutUint16(h[6:], flags)
	copy(h[12:], netip.MustParseAddr(from).AsSlice())
	copy(h[16:], netip.MustParseAddr(to).AsSlice())
	binary.BigEndian.PutUint16(h[10:], checksum(h))
	return append(h, payload...)
}

// ip6 returns an IPv6 packet with a UDP or ICMPv6 payload, whose checksum is written at offset at.
func ip6(from, to string, next byte, at int, payload []byte) []byte {
	h := make([]byte, 40)
	h[0], h[6], h[7] = 0x60, next, 255
	binary.BigEndian.PutUint16(h[4:], uint16(len(payload)))
	copy(h[8:], netip.MustParseAddr(from).AsSlice())
	copy(h[24:], netip.MustParseAddr(to).AsSlice())
	pseudo := append(append([]byte{}, h[8:40]...), 0, 0, 0, byte(len(payload)), 0, 0, 0, next)
	binary.BigEndian.PutUint16(payload[at:], checksum(append(pseudo, payload...)))
	return append(h, payload...)
}

// arp returns an unsolicited ARP reply: senderIP has the MAC address senderMAC.
func arp(senderMAC, senderIP, targetIP string) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, 0, 2}
	b = append(append(b, mac(senderMAC)...), netip.MustParseAddr(senderIP).AsSlice()...)
	return append(append(b, mac("ff:ff:ff:ff:ff:ff")...), netip.MustParseAddr(targetIP).AsSlice()...)
}

// advertisement returns a neighbour advertisement with the override flag (RFC 4861 4.4).
func advertisement(target, card string) []byte {
	b := append([]byte{136, 0, 0, 0, 0x20, 0, 0, 0}, netip.MustParseAddr(target).AsSlice()...)
	return append(append(b, 2, 1), mac(card)...)
}

// router returns a router advertisement with a prefix (RFC 4861 4.2, 4.6.2).
func router(prefix string) []byte {
	b := []byte{134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0}
	b = append(b, 3, 4, 64, 0xc0, 0, 0, 0x0e, 0x10, 0, 0, 0x0e, 0x10, 0, 0, 0, 0)
	return append(b, netip.MustParseAddr(prefix).AsSlice()...)
}

const (
	kindIP4  = 0x0800
	kindARP  = 0x0806
	kindIP6  = 0x86dd
	kindVLAN = 0x8100
)

func text(b []byte) string { return hex.EncodeToString(b) }
