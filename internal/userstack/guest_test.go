package userstack

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// guest is a guest's side of the link: a network stack of its own, and raw frames.
type guest struct {
	*engine
	t *testing.T
}

// newGuest returns a guest on conn. It answers for its own address only.
func newGuest(t *testing.T, conn net.Conn) *guest {
	t.Helper()
	mac, _ := net.ParseMAC(GuestMAC)
	peer, _ := net.ParseMAC(GatewayMAC)
	e := &engine{link: newLink(conn, MTU, peer, mac)}
	e.link.features = stack.CapabilityNone // it checks checksums, as a kernel does
	if err := e.buildStack(); err != nil {
		t.Fatal(err)
	}
	address := tcpip.AddrFrom4(GuestAddress.Addr().As4())
	if err := e.stack.RemoveAddress(nicID, tcpip.AddrFrom4(GatewayAddress.As4())); err != nil {
		t.Fatal(err)
	}
	e.stack.SetPromiscuousMode(nicID, false)
	e.stack.SetSpoofing(nicID, false)
	e.stack.AddProtocolAddress(nicID, tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: address.WithPrefix()}, stack.AddressProperties{})
	g := &guest{engine: e, t: t}
	// As with QEMU and a kernel, receiving does not wait for sending.
	received := make(chan []byte, 1<<16)
	go func() {
		defer close(received)
		in := newFrames(conn)
		for {
			frame, err := in.next()
			if err != nil {
				return
			}
			if len(frame) > ethernetSize && frame[12] == 8 && frame[13] == 0 {
				received <- bytes.Clone(frame[ethernetSize:])
			}
		}
	}()
	go func() {
		for packet := range received {
			e.link.inject(packet)
		}
	}()
	t.Cleanup(func() { conn.Close() })
	return g
}

// dial connects from the guest.
func (g *guest) dial(to string, within time.Duration) (*gonet.TCPConn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	a := netip.MustParseAddrPort(to)
	return gonet.DialContextTCP(ctx, g.stack, tcpip.FullAddress{NIC: nicID, Addr: tcpip.AddrFrom4(a.Addr().As4()), Port: a.Port()}, ipv4.ProtocolNumber)
}

// mustDial connects, or fails the test.
func (g *guest) mustDial(to string) *gonet.TCPConn {
	g.t.Helper()
	c, err := g.dial(to, 10*time.Second)
	if err != nil {
		g.t.Fatalf("connecting to %s: %v", to, err)
	}
	return c
}

// udp returns a datagram connection of the guest.
func (g *guest) udp(to string) net.Conn {
	g.t.Helper()
	a := netip.MustParseAddrPort(to)
	c, err := gonet.DialUDP(g.stack, nil, &tcpip.FullAddress{NIC: nicID, Addr: tcpip.AddrFrom4(a.Addr().As4()), Port: a.Port()}, ipv4.ProtocolNumber)
	if err != nil {
		g.t.Fatal(err)
	}
	return c
}

// syn returns the packet of a connection attempt.
func syn(from, to netip.AddrPort) []byte {
	p := packet(from.Addr(), to.Addr(), protocolTCP, make([]byte, 20))
	h := p[ipv4Header:]
	h[0], h[1], h[2], h[3] = byte(from.Port()>>8), byte(from.Port()), byte(to.Port()>>8), byte(to.Port())
	h[4], h[5], h[6], h[7] = byte(from.Port()), 7, byte(to.Port()), 9 // sequence
	h[12], h[13] = 5<<4, 2                                            // header length, SYN
	h[14] = 0xff                                                      // window
	return p
}

// packet returns an IPv4 packet without its checksum.
func packet(from, to netip.Addr, protocol byte, body []byte) []byte {
	p := make([]byte, ipv4Header+len(body))
	p[0], p[8], p[9] = 0x45, 64, protocol
	p[2], p[3] = byte(len(p)>>8), byte(len(p))
	a, b := from.As4(), to.As4()
	copy(p[12:], a[:])
	copy(p[16:], b[:])
	copy(p[ipv4Header:], body)
	return p
}

// socketPair returns both ends of a stream socket: a file for the network process and a
// connection for the guest.
func socketPair(t testing.TB) (*os.File, net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	other := os.NewFile(uintptr(fds[1]), "guest")
	defer other.Close()
	conn, err := net.FileConn(other)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fds[0]), "link"), conn
}

// inProcess runs the network in the test's own process, with dial in place of this
// machine's network, and returns the guest.
func inProcess(t *testing.T, dial func(context.Context, netip.AddrPort) (*net.TCPConn, error)) (*guest, *engine) {
	t.Helper()
	file, conn := socketPair(t)
	link, err := net.FileConn(file)
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
	e, err := newEngine(link, settings{}, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	e.connector.dial = dial
	ran := make(chan error, 1)
	go func() { ran <- e.run() }()
	g := newGuest(t, conn)
	t.Cleanup(func() {
		conn.Close()
		if err := <-ran; err != nil {
			t.Errorf("the network failed: %v", err)
		}
	})
	return g, e
}
