package virt

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
)

// wire sits between go-libvirt and the daemon and works around the library's handling of
// downloads.
//
// go-libvirt takes the first packet of a download for the daemon's reply, although data
// packets can arrive before it. It takes the empty packet after the data for the end of
// the call: it sends the daemon no finish message, so that the daemon keeps the file open,
// and does not wait for the daemon's answer to one. A packet that arrives before the
// library has removed the call from its list blocks it permanently (go-libvirt issue 241).
// So wire holds data packets back until the reply has come, sends the finish message, and
// drops the daemon's answer to it.
type wire struct {
	net.Conn

	out     sync.Mutex
	outHead []byte // length field of the packet being written
	outLeft int    // bytes of that packet still to be written
	pending []byte // finish messages to send after that packet

	in      []byte // bytes ready for the library
	unread  int    // bytes of the packet being read that are still in the socket
	streams map[uint32]*stream
}

// stream is the state of one download.
type stream struct {
	replied, ended, answered bool   // reply received; data ended; answer to the finish message received
	early                    []byte // packets that arrived before the reply
}

func newWire(nc net.Conn) *wire { return &wire{Conn: nc, streams: map[uint32]*stream{}} }

// Constants of libvirt's RPC (src/rpc/virnetprotocol.x). A packet starts with seven
// 32-bit words, the first of which is its length.
const (
	headLen        = 28
	typeStream     = 3
	statusOK       = 0
	statusContinue = 2
	// program is REMOTE_PROGRAM, procVolDownload REMOTE_PROC_STORAGE_VOL_DOWNLOAD.
	program         = 0x20008086
	procVolDownload = 209
	// maxPacket is more than libvirt's limit for a packet; maxEarly is more than the
	// daemon sends before it has sent the reply.
	maxPacket = 64 << 20
	maxEarly  = 64 << 20
)

var errPacket = errors.New("libvirt sent more data than its protocol allows")

type head struct{ length, program, version, procedure, kind, serial, status uint32 }

func parseHead(b []byte) (h head) {
	for i, f := range []*uint32{&h.length, &h.program, &h.version, &h.procedure, &h.kind, &h.serial, &h.status} {
		*f = binary.BigEndian.Uint32(b[i*4:])
	}
	return h
}

// Read returns bytes for the library, which calls it from one goroutine.
func (w *wire) Read(p []byte) (int, error) {
	for len(w.in) == 0 {
		if w.unread > 0 {
			n, err := w.Conn.Read(p[:min(len(p), w.unread)])
			w.unread -= n
			return n, err
		}
		var b [headLen]byte
		if _, err := io.ReadFull(w.Conn, b[:]); err != nil {
			return 0, err
		}
		h := parseHead(b[:])
		body := max(int(h.length)-headLen, 0)
		if h.procedure != procVolDownload || h.program != program {
			w.in, w.unread = b[:], body
			continue
		}
		if err := w.download(h, b[:], body); err != nil {
			return 0, err
		}
	}
	n := copy(p, w.in)
	w.in = w.in[n:]
	return n, nil
}

// download handles a packet of a download: the reply to the call, or data.
func (w *wire) download(h head, b []byte, body int) error {
	if body > maxPacket {
		return errPacket
	}
	s := w.streams[h.serial]
	if s == nil {
		s = &stream{}
		w.streams[h.serial] = s
	}
	if h.kind != typeStream {
		w.in, w.unread = b, body
		if h.status != statusOK {
			delete(w.streams, h.serial) // refused
			return nil
		}
		if s.replied = true; s.answered {
			delete(w.streams, h.serial)
		}
		if len(s.early) > 0 {
			rest := make([]byte, body)
			if _, err := io.ReadFull(w.Conn, rest); err != nil {
				return err
			}
			w.in, w.unread, s.early = append(append(b, rest...), s.early...), 0, nil
		}
		return nil
	}
	if s.ended {
		// The answer to the finish message, which can also arrive before the reply.
		if s.answered = true; s.replied {
			delete(w.streams, h.serial)
		}
		_, err := io.CopyN(io.Discard, w.Conn, int64(body))
		return err
	}
	if h.status != statusContinue || body == 0 {
		s.ended = true
		if h.status != statusContinue {
			s.answered = true // the download failed: no answer follows
		} else if err := w.sendFinish(h); err != nil {
			return err
		}
	}
	if s.replied {
		if w.in, w.unread = b, body; s.answered {
			delete(w.streams, h.serial)
		}
		return nil
	}
	if len(s.early) > maxEarly {
		return errPacket
	}
	rest := make([]byte, body)
	_, err := io.ReadFull(w.Conn, rest)
	s.early = append(append(s.early, b...), rest...)
	return err
}

// sendFinish tells the daemon that a stream was read to its end.
func (w *wire) sendFinish(h head) error {
	b := make([]byte, 0, headLen)
	for _, v := range []uint32{headLen, h.program, h.version, h.procedure, typeStream, h.serial, statusOK} {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	w.out.Lock()
	defer w.out.Unlock()
	w.pending = append(w.pending, b...)
	return w.flush()
}

// flush sends pending finish messages, unless a packet of the library is partly written.
func (w *wire) flush() error {
	if len(w.pending) == 0 || w.outLeft > 0 || len(w.outHead) > 0 {
		return nil
	}
	b := w.pending
	w.pending = nil
	_, err := w.Conn.Write(b)
	return err
}

// Write passes the library's bytes to the daemon and tracks where a packet ends.
func (w *wire) Write(p []byte) (int, error) {
	w.out.Lock()
	defer w.out.Unlock()
	n, err := w.Conn.Write(p)
	for b := p[:n]; len(b) > 0; {
		if w.outLeft > 0 {
			k := min(w.outLeft, len(b))
			w.outLeft -= k
			b = b[k:]
			continue
		}
		k := min(4-len(w.outHead), len(b))
		w.outHead = append(w.outHead, b[:k]...)
		b = b[k:]
		if len(w.outHead) == 4 {
			w.outLeft = max(int(binary.BigEndian.Uint32(w.outHead))-4, 0)
			w.outHead = w.outHead[:0]
		}
	}
	if err != nil {
		return n, err
	}
	return n, w.flush()
}
