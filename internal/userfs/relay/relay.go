// Package relay serves FUSE over a stream: the guest's agent copies the messages of its /dev/fuse to
// a virtio-serial port, whose other end is the stream.
//
// Each message has its length in its first four bytes, as FUSE itself defines it. A message with an
// impossible length ends the session, because the stream cannot be followed any more.
package relay

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"aivm.dev/aivm/internal/userfs/fuse"
)

const (
	workers  = 12       // requests that are served at the same time
	bigs     = 6        // of them with more data than fits a small buffer
	small    = 16 << 10 // size of the buffers every worker keeps
	idleTime = 2 * time.Second
)

// A Server answers requests; tree.Tree is one.
type Server interface {
	Serve(r *fuse.Request, buf []byte) []byte
}

// session is the state that the workers of one stream share.
type session struct {
	server Server
	idle   func()

	read sync.Mutex
	in   *bufio.Reader

	write sync.Mutex
	out   io.Writer

	big   chan []byte // buffers for one large message each, nil until they are used
	quiet *time.Timer
}

// Serve answers the requests on stream until it ends; that is no error. idle is called when no
// large message has been served for some time, and the buffers have been dropped.
func Serve(server Server, stream io.ReadWriter, idle func()) error {
	s := &session{server: server, idle: idle, in: bufio.NewReaderSize(stream, 64<<10), out: stream, big: make(chan []byte, bigs)}
	for range bigs {
		s.big <- nil
	}
	s.quiet = time.AfterFunc(idleTime, s.drop)
	defer s.quiet.Stop()
	failed := make(chan error, workers)
	for range workers {
		go func() { failed <- s.work() }()
	}
	err := <-failed // the others are waiting for the stream, or find it closed
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// work reads and answers one request after the other. A request that takes long is answered while
// another worker reads; for the others, waking it up would take longer than the answer.
func (s *session) work() error {
	in, out := make([]byte, small), make([]byte, small)
	for {
		s.read.Lock()
		msg, bigIn, err := s.next(in)
		if err != nil {
			s.read.Unlock()
			return err
		}
		r, err := fuse.Parse(msg)
		if err != nil {
			s.read.Unlock()
			return fmt.Errorf("a request of the guest is malformed: %w", err)
		}
		quick := r.Quick() && s.in.Buffered() == 0
		if !quick {
			s.read.Unlock()
		}
		err = s.answer(&r, msg, bigIn, out)
		if quick {
			s.read.Unlock()
		}
		if err != nil {
			return err
		}
	}
}

// answer answers a request, in out if the reply fits, and puts its message back if it is big.
func (s *session) answer(r *fuse.Request, msg []byte, bigIn bool, out []byte) error {
	bigOut := r.ReplySize() > len(out)
	if bigOut {
		if bigIn {
			return errors.New("a request of the guest is malformed: no request has much data in both directions")
		}
		out = s.take()
	}
	reply := s.server.Serve(r, out)
	if bigIn {
		s.put(msg)
	}
	var err error
	if reply != nil {
		s.write.Lock()
		_, err = s.out.Write(reply)
		s.write.Unlock()
	}
	if bigOut {
		s.put(out)
	}
	return err
}

// next reads the next message, into buf if it fits. Otherwise big is true and the message is to be
// put back.
func (s *session) next(buf []byte) (msg []byte, big bool, err error) {
	head, err := s.in.Peek(4)
	if err != nil {
		return nil, false, err
	}
	n, err := fuse.ParseLength(head)
	if err != nil {
		return nil, false, fmt.Errorf("a request of the guest has an impossible length: %w", err)
	}
	if n > len(buf) {
		buf, big = s.take(), true
	}
	_, err = io.ReadFull(s.in, buf[:n])
	return buf[:n], big, err
}

// take returns a large buffer when one is free. No worker takes two.
func (s *session) take() []byte {
	buf := <-s.big
	if buf == nil {
		buf = make([]byte, fuse.MaxRequest)
	}
	return buf
}

func (s *session) put(buf []byte) {
	s.big <- buf[:fuse.MaxRequest]
	s.quiet.Reset(idleTime)
}

// drop frees the large buffers that are not used.
func (s *session) drop() {
	for range bigs {
		select {
		case <-s.big:
			s.big <- nil
		default:
		}
	}
	s.idle()
}
