package userstack

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

const (
	nicID = 1

	// maxRefusals is how many ICMP errors and ARP answers a second the guest gets.
	maxRefusals = 1000

	timeWait = 5 * time.Second // the link loses and reorders nothing
)

// engine is the network of one VM within the confined process.
type engine struct {
	link      *link
	gate      gatekeeper
	stack     *stack.Stack
	connector *connector
	names     *nameServer
	resolver  *resolver
	refusals  bucket
}

// newEngine builds the network on a connection to QEMU; run makes it work.
func newEngine(conn net.Conn, s settings, log io.Writer) (*engine, error) {
	guestMAC, err := net.ParseMAC(GuestMAC)
	if err != nil {
		return nil, err
	}
	gatewayMAC, err := net.ParseMAC(GatewayMAC)
	if err != nil {
		return nil, err
	}
	j := newJournal(log)
	e := &engine{
		link:     newLink(conn, MTU, guestMAC, gatewayMAC),
		gate:     gatekeeper{guest: GuestAddress.Addr(), gateway: GatewayAddress, guestMAC: guestMAC, gatewayMAC: gatewayMAC},
		resolver: &resolver{},
	}
	e.resolver.servers.Store(&s.Resolvers)
	if err := e.buildStack(); err != nil {
		return nil, err
	}
	admission := newAdmission(time.Now)
	admission.learn(GatewayAddress)
	for _, a := range s.Allow {
		admission.learn(a.Addr())
	}
	rules := newRules(s.Allow, net.InterfaceAddrs)
	e.names = &nameServer{rules: rules, admission: admission, lookup: e.resolver.lookup, log: j, busy: make(chan struct{}, maxQuestions)}
	e.connector = &connector{
		stack: e.stack, rules: rules, admission: admission, pending: newPending(), dial: dialHost,
		dns: e.names.stream, gateway: GatewayAddress, log: j,
	}
	e.connector.install()
	return e, nil
}

func (e *engine) buildStack() error {
	e.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
	})
	sack, moderate, wait := tcpip.TCPSACKEnabled(true), tcpip.TCPModerateReceiveBufferOption(false), tcpip.TCPTimeWaitTimeoutOption(timeWait)
	sends := tcpip.TCPSendBufferSizeRangeOption{Min: 4 << 10, Default: largeBuffer, Max: largeBuffer}
	receives := tcpip.TCPReceiveBufferSizeRangeOption{Min: 4 << 10, Default: largeBuffer, Max: largeBuffer}
	for _, option := range []tcpip.SettableTransportProtocolOption{&sack, &moderate, &wait, &sends, &receives} {
		if err := e.stack.SetTransportProtocolOption(tcp.ProtocolNumber, option); err != nil {
			return fmt.Errorf("setting %T: %s", option, err)
		}
	}
	if err := e.stack.CreateNIC(nicID, e.link); err != nil {
		return fmt.Errorf("making the network interface: %s", err)
	}
	address := tcpip.AddrFrom4(GatewayAddress.As4())
	if err := e.stack.AddProtocolAddress(nicID, tcpip.ProtocolAddress{
		Protocol:          ipv4.ProtocolNumber,
		AddressWithPrefix: address.WithPrefix(),
	}, stack.AddressProperties{}); err != nil {
		return fmt.Errorf("giving the gateway its address: %s", err)
	}
	// The stack takes and sends packets for every address: it is every server the guest
	// speaks with.
	if err := e.stack.SetPromiscuousMode(nicID, true); err != nil {
		return fmt.Errorf("taking packets for all addresses: %s", err)
	}
	if err := e.stack.SetSpoofing(nicID, true); err != nil {
		return fmt.Errorf("sending packets from all addresses: %s", err)
	}
	e.stack.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nicID}})
	return nil
}

// run carries the guest's frames until the connection to QEMU ends.
func (e *engine) run() error {
	questions, err := gonet.DialUDP(e.stack, &tcpip.FullAddress{NIC: nicID, Addr: tcpip.AddrFrom4(GatewayAddress.As4()), Port: dnsPort}, nil, ipv4.ProtocolNumber)
	if err != nil {
		return fmt.Errorf("opening the gateway's DNS port: %w", err)
	}
	defer questions.Close()
	go e.names.packets(questions)
	in := newFrames(e.link.conn)
	for {
		frame, err := in.next()
		if err == io.EOF || errors.Is(err, syscall.ECONNRESET) { // a reset: it ended with frames unread
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading from QEMU: %w", err)
		}
		if err := e.take(frame); err != nil {
			return fmt.Errorf("writing to QEMU: %w", err)
		}
	}
}

// take handles one frame of the guest.
func (e *engine) take(frame []byte) error {
	v := e.gate.judge(frame)
	switch {
	case v.packet != nil:
		e.link.inject(v.packet)
	case v.arp != nil && e.refusals.take(time.Now(), maxRefusals):
		return e.link.send(typeARP, v.arp)
	case v.icmp != nil && e.refusals.take(time.Now(), maxRefusals):
		return e.link.send(typeIPv4, v.icmp)
	}
	return nil
}

// settings is what the parent process tells the confined one.
type settings struct {
	Allow     []netip.AddrPort
	Resolvers []netip.AddrPort
}
