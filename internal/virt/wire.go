package virt

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
)

// wire stands between go-libvirt and the daemon and ends downloads properly.
//
// The library takes the first packet of a download for the daemon's reply, but
// data may overtake that; and the empty packet the data end with for the whole
// end: it neither tells the daemon that it is done, which then keeps the file
// open, nor waits for what the daemon still says. A packet that comes before it
// has struck the call off its list blocks it for ever (its issue 241). So data
// wait here for the reply, the goodbye is said here, and what the daemon answers
// to it goes no further.
type wire struct {
	net.Conn

	out     sync.Mutex
	outHead []byte // of the packet that is being written
	outLeft int    // bytes of it still to come
	pending []byte // goodbyes that wait for its end

	in      []byte // bytes for the library
	left    int    // bytes of the packet being read that are still in the socket
	streams map[uint32]*stream
}

// stream is one download, by the serial of its call.
type stream struct {
	replied, ended, answered bool
	held                     []byte // packets that came before the reply
}

func newWire(nc net.Conn) *wire { return &wire{Conn: nc, streams: map[uint32]*stream{}} }

// Of libvirt's RPC (src/rpc/virnetprotocol.x): a length, then six words.
const (
	headLen        = 28
	typeStream     = 3
	statusOK       = 0
	statusContinue = 2
	// program is REMOTE_PROGRAM, procVolDownload REMOTE_PROC_STORAGE_VOL_DOWNLOAD.
	program         = 0x20008086
	procVolDownload = 209
	// maxPacket is more than the daemon may send, maxHeld more than it sends
	// before it is told to go on.
	maxPacket = 64 << 20
	maxHeld   = 64 << 20
)

var errPacket = errors.New("libvirt sent more than it may")

type head struct{ length, program, version, procedure, kind, serial, status uint32 }

func parseHead(b []byte) (h head) {
	for i, f := range []*uint32{&h.length, &h.program, &h.version, &h.procedure, &h.kind, &h.serial, &h.status} {
		*f = binary.BigEndian.Uint32(b[i*4:])
	}
	return h
}

// Read is called by one goroutine of the library.
func (w *wire) Read(p []byte) (int, error) {
	for len(w.in) == 0 {
		if w.left > 0 {
			n, err := w.Conn.Read(p[:min(len(p), w.left)])
			w.left -= n
			return n, err
		}
		var b [headLen]byte
		if _, err := io.ReadFull(w.Conn, b[:]); err != nil {
			return 0, err
		}
		h := parseHead(b[:])
		body := max(int(h.length)-headLen, 0)
		if h.procedure != procVolDownload || h.program != program {
			w.in, w.left = b[:], body
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
		w.in, w.left = b, body
		if h.status != statusOK {
			delete(w.streams, h.serial) // refused
			return nil
		}
		if s.replied = true; s.answered {
			delete(w.streams, h.serial)
		}
		if len(s.held) > 0 {
			rest := make([]byte, body)
			if _, err := io.ReadFull(w.Conn, rest); err != nil {
				return err
			}
			w.in, w.left, s.held = append(append(b, rest...), s.held...), 0, nil
		}
		return nil
	}
	if s.ended {
		// The answer to the goodbye, which may overtake the reply, too.
		if s.answered = true; s.replied {
			delete(w.streams, h.serial)
		}
		_, err := io.CopyN(io.Discard, w.Conn, int64(body))
		return err
	}
	if h.status != statusContinue || body == 0 {
		s.ended = true
		if h.status != statusContinue {
			s.answered = true // failed: nothing follows
		} else if err := w.goodbye(h); err != nil {
			return err
		}
	}
	if s.replied {
		if w.in, w.left = b, body; s.answered {
			delete(w.streams, h.serial)
		}
		return nil
	}
	if len(s.held) > maxHeld {
		return errPacket
	}
	rest := make([]byte, body)
	_, err := io.ReadFull(w.Conn, rest)
	s.held = append(append(s.held, b...), rest...)
	return err
}

// goodbye tells the daemon that a stream was taken to its end.
func (w *wire) goodbye(h head) error {
	b := make([]byte, 0, headLen)
	for _, v := range []uint32{headLen, h.program, h.version, h.procedure, typeStream, h.serial, statusOK} {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	w.out.Lock()
	defer w.out.Unlock()
	w.pending = append(w.pending, b...)
	return w.flush()
}

func (w *wire) flush() error {
	if len(w.pending) == 0 || w.outLeft > 0 || len(w.outHead) > 0 {
		return nil // never into the middle of a packet
	}
	b := w.pending
	w.pending = nil
	_, err := w.Conn.Write(b)
	return err
}

// Write passes packets on and keeps count of where one ends.
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
