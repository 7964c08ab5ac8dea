package userstack

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	ethernetSize  = 14
	lengthSize    = 4
	largestFrame  = 65535 + ethernetSize + 4 // an IPv4 packet in a tagged frame
	framesBuffer  = 256 << 10
	batchedFrames = 64
)

// frames reads frames from QEMU's stream: 4 bytes of length, big endian, and the frame.
type frames struct {
	from       io.Reader
	buf        []byte
	start, end int
}

func newFrames(from io.Reader) *frames {
	return &frames{from: from, buf: make([]byte, framesBuffer)}
}

// next returns the next frame, valid until the next call. A length over the limit is an
// error after which nothing can be read: where the next frame begins is unknown.
func (f *frames) next() ([]byte, error) {
	if err := f.fill(lengthSize); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(f.buf[f.start:])
	if n > largestFrame {
		return nil, fmt.Errorf("a frame of %d bytes: more than %d", n, largestFrame)
	}
	f.start += lengthSize
	if err := f.fill(int(n)); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	frame := f.buf[f.start : f.start+int(n)]
	f.start += int(n)
	return frame, nil
}

// fill reads until at least n bytes are there.
func (f *frames) fill(n int) error {
	if f.start == f.end {
		f.start, f.end = 0, 0
	}
	if f.start+n > len(f.buf) {
		f.end = copy(f.buf, f.buf[f.start:f.end])
		f.start = 0
	}
	for f.end-f.start < n {
		got, err := f.from.Read(f.buf[f.end:])
		f.end += got
		if f.end-f.start >= n {
			return nil
		}
		if err == io.EOF && f.end > f.start {
			return io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// link is gVisor's view of the connection to QEMU. Writes block while QEMU does not read,
// also those made while a frame of the guest is handled: that holds up the guest's own
// network, and nothing else. It is no deadlock with QEMU, which reads whether or not it
// can write.
type link struct {
	conn       net.Conn
	mtu        uint32
	prefix     [ethernetSize]byte // of every IPv4 frame to the guest
	mu         sync.Mutex         // of conn's writes, heads and vectors
	heads      [batchedFrames][lengthSize + ethernetSize]byte
	vectors    net.Buffers
	mac        tcpip.LinkAddress
	features   stack.LinkEndpointCapabilities
	dispatcher stack.NetworkDispatcher
}

func newLink(conn net.Conn, mtu uint32, guest, gateway net.HardwareAddr) *link {
	// Packets came through this machine's memory; checking their checksums tells nothing.
	l := &link{conn: conn, mtu: mtu, mac: tcpip.LinkAddress(gateway), features: stack.CapabilityRXChecksumOffload}
	copy(l.prefix[0:], guest)
	copy(l.prefix[6:], gateway)
	binary.BigEndian.PutUint16(l.prefix[12:], uint16(header.IPv4ProtocolNumber))
	return l
}

// inject gives the stack an IPv4 packet that the guest sent.
func (l *link) inject(packet []byte) {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(packet)})
	l.dispatcher.DeliverNetworkPacket(header.IPv4ProtocolNumber, pkt)
	pkt.DecRef()
}

// send writes one packet of the given EtherType to the guest.
func (l *link) send(etherType uint16, packet []byte) error {
	frame := make([]byte, lengthSize+ethernetSize+len(packet))
	binary.BigEndian.PutUint32(frame, uint32(ethernetSize+len(packet)))
	copy(frame[lengthSize:], l.prefix[:])
	binary.BigEndian.PutUint16(frame[lengthSize+12:], etherType)
	copy(frame[lengthSize+ethernetSize:], packet)
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err := l.conn.Write(frame)
	return err
}

// WritePackets writes the packets to the guest, up to batchedFrames in one system call.
func (l *link) WritePackets(list stack.PacketBufferList) (int, tcpip.Error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	packets := list.AsSlice()
	for done := 0; done < len(packets); {
		batch := packets[done:min(done+batchedFrames, len(packets))]
		vectors := l.vectors[:0]
		for i, pkt := range batch {
			head := l.heads[i][:]
			binary.BigEndian.PutUint32(head, uint32(ethernetSize+pkt.Size()))
			copy(head[lengthSize:], l.prefix[:])
			vectors = append(append(vectors, head), pkt.AsSlices()...)
		}
		l.vectors = vectors // WriteTo moves the slice it is called on
		if _, err := vectors.WriteTo(l.conn); err != nil {
			return done, &tcpip.ErrClosedForSend{}
		}
		clear(l.vectors)
		done += len(batch)
	}
	return len(packets), nil
}

// The remaining methods of stack.LinkEndpoint. Frames are addressed by the link itself,
// so the stack needs no ARP.

func (l *link) MTU() uint32                             { return l.mtu }
func (l *link) SetMTU(uint32)                           {}
func (l *link) MaxHeaderLength() uint16                 { return 0 }
func (l *link) LinkAddress() tcpip.LinkAddress          { return l.mac }
func (l *link) SetLinkAddress(tcpip.LinkAddress)        {}
func (l *link) Attach(d stack.NetworkDispatcher)        { l.dispatcher = d }
func (l *link) IsAttached() bool                        { return l.dispatcher != nil }
func (l *link) Wait()                                   {}
func (l *link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }
func (l *link) AddHeader(*stack.PacketBuffer)           {}
func (l *link) ParseHeader(*stack.PacketBuffer) bool    { return true }
func (l *link) Close()                                  {}
func (l *link) SetOnCloseAction(func())                 {}
func (l *link) Capabilities() stack.LinkEndpointCapabilities {
	return l.features
}
