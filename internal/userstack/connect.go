package userstack

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// maxFlows is how many connections of the guest are open at once; more are refused.
const maxFlows = 1024

// connector makes the guest's TCP connections: dialed first, accepted then.
type connector struct {
	stack     *stack.Stack
	rules     *rules
	admission *admission
	pending   *pending
	forwarder *tcp.Forwarder
	dial      func(context.Context, netip.AddrPort) (*net.TCPConn, error)
	dns       func(net.Conn) // serves DNS over TCP
	gateway   netip.Addr
	log       *journal
	flows     atomic.Int64
}

func (c *connector) install() {
	const inFlight = 4 * maxPending // attempts given up need a moment to end
	c.forwarder = tcp.NewForwarder(c.stack, largeBuffer, inFlight, c.serve)
	c.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, c.handle)
}

// dialHost connects to an address, as this machine.
func dialHost(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp4", to.String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// destination returns what the guest connects to.
func destination(id stack.TransportEndpointID) netip.AddrPort {
	a, _ := netip.AddrFromSlice(id.LocalAddress.AsSlice())
	return netip.AddrPortFrom(a, id.LocalPort)
}

// handle gets every TCP packet of the guest that belongs to no connection. It returns
// false for what the stack is to answer with RST: a forbidden destination costs nothing
// more than that.
func (c *connector) handle(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	flags := header.TCP(pkt.TransportHeader().Slice()).Flags()
	if !flags.Contains(header.TCPFlagSyn) || flags.Contains(header.TCPFlagAck) {
		return false
	}
	to := destination(id)
	switch {
	case to == netip.AddrPortFrom(c.gateway, dnsPort):
	case to.Addr() == c.gateway:
		return false
	case !c.rules.connect(to):
		c.log.refused(to)
		return false
	}
	if !c.admission.admit(to.Addr()) {
		return true // as if lost: the guest's TCP tries again
	}
	return c.forwarder.HandlePacket(id, pkt)
}

// serve makes one connection and copies until it ends.
func (c *connector) serve(r *tcp.ForwarderRequest) {
	id := r.ID()
	to := destination(id)
	if c.flows.Add(1) > maxFlows {
		c.flows.Add(-1)
		r.Complete(true)
		return
	}
	defer c.flows.Add(-1)

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	attempt := c.pending.enter(to.Addr(), cancel)
	defer c.pending.leave(attempt)

	var conn *net.TCPConn
	if to.Addr() != c.gateway {
		dialing, stop := context.WithTimeout(ctx, dialTimeout)
		var err error
		conn, err = c.dial(dialing, to)
		stop()
		if err != nil {
			// Given up: as if lost, for the guest to try again. Else refused.
			r.Complete(ctx.Err() == nil)
			return
		}
	}
	var queue waiter.Queue
	ep, ok := c.accept(ctx, r, &queue)
	r.Complete(false)
	if !ok {
		if conn != nil {
			_ = conn.SetLinger(0) // no TIME_WAIT on this machine
			_ = conn.Close()
		}
		return
	}
	c.pending.leave(attempt)
	if conn == nil {
		c.dns(newGuestConn(&queue, ep))
		return
	}
	c.admission.learn(to.Addr())
	size := bufferSize(c.flows.Load())
	ep.SocketOptions().SetSendBufferSize(size, true)
	ep.SocketOptions().SetReceiveBufferSize(size, true)
	relay(conn, ep, &queue)
}

// accept performs the handshake with the guest, until ctx ends or handshakeTimeout is
// over.
func (c *connector) accept(ctx context.Context, r *tcp.ForwarderRequest, queue *waiter.Queue) (tcpip.Endpoint, bool) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	done := make(chan struct{})
	defer close(done)
	id := r.ID()
	stop := context.AfterFunc(ctx, func() {
		// CreateEndpoint takes no context, and registers its endpoint at some point.
		for {
			if ep, ok := c.stack.FindTransportEndpoint(header.IPv4ProtocolNumber, tcp.ProtocolNumber, id, nicID).(*tcp.Endpoint); ok && ep != nil {
				ep.Abort()
			}
			select {
			case <-done:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	ep, err := r.CreateEndpoint(queue)
	if !stop() && err == nil { // aborted, or about to be
		ep.Close()
		return nil, false
	}
	return ep, err == nil
}
