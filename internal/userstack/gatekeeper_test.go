package userstack

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"testing"
	"testing/iotest"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
)

func testGate() gatekeeper {
	guest, _ := net.ParseMAC(GuestMAC)
	gateway, _ := net.ParseMAC(GatewayMAC)
	return gatekeeper{guest: GuestAddress.Addr(), gateway: GatewayAddress, guestMAC: guest, gatewayMAC: gateway}
}

// frame returns an Ethernet frame from the guest to the gateway.
func frame(g gatekeeper, etherType uint16, payload []byte) []byte {
	f := append(append([]byte{}, g.gatewayMAC...), g.guestMAC...)
	return append(binary.BigEndian.AppendUint16(f, etherType), payload...)
}

func TestJudge(t *testing.T) {
	g := testGate()
	ip := netip.MustParseAddr
	me, gw, far := GuestAddress.Addr(), GatewayAddress, ip("203.0.113.1")
	dns := []byte{0x10, 0, 0, 53, 0, 8, 0, 0}
	echo := []byte{8, 0, 0, 0, 0, 0, 0, 0}
	tcp := make([]byte, 20)
	edit := func(p []byte, at int, values ...byte) []byte { copy(p[at:], values); return p }
	for name, c := range map[string]struct {
		frame []byte
		want  string
	}{
		"TCP":                          {frame(g, typeIPv4, packet(me, far, protocolTCP, tcp)), "packet"},
		"TCP, padded":                  {frame(g, typeIPv4, append(packet(me, far, protocolTCP, tcp), 0, 0)), "packet"},
		"DNS":                          {frame(g, typeIPv4, packet(me, gw, protocolUDP, dns)), "packet"},
		"echo":                         {frame(g, typeIPv4, packet(me, gw, protocolICMP, echo)), "packet"},
		"DNS elsewhere":                {frame(g, typeIPv4, packet(me, far, protocolUDP, dns)), "refused 3"},
		"short UDP":                    {frame(g, typeIPv4, packet(me, gw, protocolUDP, dns[:7])), "refused 3"},
		"empty UDP":                    {frame(g, typeIPv4, packet(me, gw, protocolUDP, nil)), "refused 3"},
		"UDP to another port":          {frame(g, typeIPv4, packet(me, gw, protocolUDP, []byte{0, 1, 0, 54, 0, 8, 0, 0})), "refused 3"},
		"echo elsewhere":               {frame(g, typeIPv4, packet(me, far, protocolICMP, echo)), "refused 13"},
		"SCTP":                         {frame(g, typeIPv4, packet(me, far, 132, tcp)), "refused 2"},
		"ICMP error":                   {frame(g, typeIPv4, packet(me, far, protocolICMP, []byte{3, 3, 0, 0, 0, 0, 0, 0})), ""},
		"ICMP redirect":                {frame(g, typeIPv4, packet(me, gw, protocolICMP, []byte{5, 0, 0, 0, 0, 0, 0, 0})), ""},
		"short ICMP":                   {frame(g, typeIPv4, packet(me, gw, protocolICMP, []byte{8, 0, 0})), ""},
		"another source":               {frame(g, typeIPv4, packet(far, gw, protocolUDP, dns)), ""},
		"loopback source":              {frame(g, typeIPv4, packet(ip("127.0.0.1"), far, protocolTCP, tcp)), ""},
		"the gateway's source":         {frame(g, typeIPv4, packet(gw, far, protocolTCP, tcp)), ""},
		"to itself":                    {frame(g, typeIPv4, packet(me, me, protocolTCP, tcp)), ""},
		"multicast":                    {frame(g, typeIPv4, packet(me, ip("224.0.0.251"), protocolUDP, dns)), ""},
		"broadcast":                    {frame(g, typeIPv4, packet(me, ip("255.255.255.255"), protocolUDP, dns)), ""},
		"unspecified":                  {frame(g, typeIPv4, packet(me, ip("0.0.0.0"), protocolTCP, tcp)), ""},
		"another source MAC":           {edit(frame(g, typeIPv4, packet(me, far, protocolTCP, tcp)), 6, 2), ""},
		"another destination MAC":      {edit(frame(g, typeIPv4, packet(me, far, protocolTCP, tcp)), 0, 2), ""},
		"IPv6":                         {frame(g, 0x86dd, make([]byte, 60)), ""},
		"VLAN":                         {frame(g, 0x8100, append([]byte{0, 1, 8, 0}, packet(me, far, protocolTCP, tcp)...)), ""},
		"version 6 inside":             {edit(frame(g, typeIPv4, packet(me, far, protocolTCP, tcp)), ethernetSize, 0x65), ""},
		"options":                      {edit(frame(g, typeIPv4, packet(me, far, protocolTCP, tcp)), ethernetSize, 0x46), ""},
		"length beyond the frame":      {edit(frame(g, typeIPv4, packet(me, far, protocolTCP, tcp)), ethernetSize+2, 0, 41), ""},
		"length of less than a header": {edit(frame(g, typeIPv4, packet(me, far, protocolTCP, tcp)), ethernetSize+2, 0, 19), ""},
		"first fragment":               {edit(frame(g, typeIPv4, packet(me, far, protocolTCP, tcp)), ethernetSize+6, 0x20), ""},
		"later fragment":               {edit(frame(g, typeIPv4, packet(me, far, protocolTCP, tcp)), ethernetSize+6, 0, 1), ""},
		"a header alone":               {frame(g, typeIPv4, nil), ""},
		"nothing":                      {nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			v := g.judge(c.frame)
			got := ""
			switch {
			case v.packet != nil:
				got = "packet"
			case v.arp != nil:
				got = "arp"
			case v.icmp != nil:
				got = "refused " + map[byte]string{2: "2", 3: "3", 13: "13"}[v.icmp[ipv4Header+1]]
				if checksum.Checksum(v.icmp[:ipv4Header], 0) != 0xffff || checksum.Checksum(v.icmp[ipv4Header:], 0) != 0xffff {
					t.Error("a checksum is wrong")
				}
				if int(binary.BigEndian.Uint16(v.icmp[2:])) != len(v.icmp) || !bytes.Equal(v.icmp[ipv4Header+8:], c.frame[ethernetSize:][:len(v.icmp)-ipv4Header-8]) {
					t.Errorf("the ICMP packet is wrong: %x", v.icmp)
				}
			}
			if got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

func TestARP(t *testing.T) {
	g := testGate()
	request := append([]byte{0, 1, 8, 0, 6, 4, 0, 1}, g.guestMAC...)
	request = append(request, 192, 0, 0, 2, 0, 0, 0, 0, 0, 0, 192, 0, 0, 1)
	v := g.judge(frame(g, typeARP, request))
	want := append([]byte{0, 1, 8, 0, 6, 4, 0, 2}, g.gatewayMAC...)
	want = append(append(append(want, 192, 0, 0, 1), g.guestMAC...), 192, 0, 0, 2)
	if !bytes.Equal(v.arp, want) {
		t.Errorf("%x, want %x", v.arp, want)
	}
	for name, change := range map[string]func([]byte){
		"for another address":    func(p []byte) { p[27] = 3 },
		"from another address":   func(p []byte) { p[17] = 3 },
		"from another MAC":       func(p []byte) { p[13]++ },
		"a reply":                func(p []byte) { p[7] = 2 },
		"for the guest's own":    func(p []byte) { p[27] = 2 },
		"with an odd size of it": func(p []byte) { p[4] = 8 },
	} {
		p := bytes.Clone(request)
		change(p)
		if v := g.judge(frame(g, typeARP, p)); v.arp != nil {
			t.Errorf("a question %s was answered: %x", name, v.arp)
		}
	}
	if v := g.judge(frame(g, typeARP, request[:27])); v.arp != nil {
		t.Error("a short question was answered")
	}
}

func TestFrames(t *testing.T) {
	var stream []byte
	var sizes []int
	for _, n := range []int{0, 1, 60, largestFrame, 1514, 65534, 0, largestFrame, largestFrame, largestFrame, largestFrame, 3} {
		stream = binary.BigEndian.AppendUint32(stream, uint32(n))
		stream = append(stream, bytes.Repeat([]byte{byte(n)}, n)...)
		sizes = append(sizes, n)
	}
	for name, from := range map[string]io.Reader{
		"at once": bytes.NewReader(stream), "halves": iotest.HalfReader(bytes.NewReader(stream)),
		"bytes": iotest.OneByteReader(bytes.NewReader(stream)), "with the end": iotest.DataErrReader(bytes.NewReader(stream)),
	} {
		f := newFrames(from)
		for i, n := range sizes {
			got, err := f.next()
			if err != nil || !bytes.Equal(got, bytes.Repeat([]byte{byte(n)}, n)) {
				t.Fatalf("%s: frame %d: %d bytes, %v", name, i, len(got), err)
			}
		}
		if _, err := f.next(); err != io.EOF {
			t.Errorf("%s: at the end: %v", name, err)
		}
	}
	for _, cut := range []int{1, 3, 9} {
		f := newFrames(bytes.NewReader(append([]byte{0, 0, 0, 6}, "frame"...)[:cut]))
		if _, err := f.next(); err != io.ErrUnexpectedEOF {
			t.Errorf("cut after %d bytes: %v", cut, err)
		}
	}
	if _, err := newFrames(bytes.NewReader([]byte{0xff, 0xff, 0xff, 0xff, 0})).next(); err == nil {
		t.Error("a frame of 4 GiB was taken")
	}
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 9})
	f.Fuzz(func(t *testing.T, b []byte) {
		in := newFrames(iotest.HalfReader(bytes.NewReader(b)))
		for total := 0; ; {
			got, err := in.next()
			if err != nil {
				return
			}
			if total += 4 + len(got); total > len(b) {
				t.Fatal("more read than written")
			}
		}
	})
}

// FuzzGuestFrame gives a complete network any frame with the right MAC addresses.
func FuzzGuestFrame(f *testing.F) {
	g := testGate()
	me, far := GuestAddress.Addr(), netip.MustParseAddr("203.0.113.1")
	f.Add(uint16(typeIPv4), packet(me, far, protocolTCP, make([]byte, 20)))
	f.Add(uint16(typeIPv4), syn(netip.AddrPortFrom(me, 1), netip.MustParseAddrPort("10.0.0.1:80")))
	f.Add(uint16(typeIPv4), packet(me, GatewayAddress, protocolUDP, append([]byte{1, 1, 0, 53, 0, 41, 0, 0}, mustQuery("a.example.net.")...)))
	f.Add(uint16(typeIPv4), packet(me, GatewayAddress, protocolICMP, make([]byte, 8)))
	f.Add(uint16(typeARP), make([]byte, 28))
	link, peer := net.Pipe()
	go func() { _, _ = io.Copy(io.Discard, peer) }()
	e, err := newEngine(link, settings{Resolvers: []netip.AddrPort{}}, io.Discard)
	if err != nil {
		f.Fatal(err)
	}
	e.connector.dial = noDial
	f.Fuzz(func(t *testing.T, etherType uint16, payload []byte) {
		if len(payload) > largestFrame-ethernetSize {
			return
		}
		p := bytes.Clone(payload)
		if etherType == typeIPv4 && len(p) >= ipv4Header { // past the first checks
			a := me.As4()
			copy(p[12:], a[:])
			p[0], p[6], p[7] = 0x45, 0, 0
			binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
		}
		if err := e.take(frame(g, etherType, p)); err != nil {
			t.Fatal(err)
		}
	})
}
