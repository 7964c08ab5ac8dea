// Package guestd is the host's side of the connection to a one-shot VM: it sets the
// guest up, starts commands in it and carries their input and output. The agent on
// the other side is internal/guestd/agent, the protocol internal/guestd/wire.
//
// Everything the guest sends is hostile: a frame that breaks the protocol ends the
// session, and no more than the credit given to it is ever kept in memory.
package guestd

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"aivm.dev/aivm/internal/guestd/wire"
	"aivm.dev/aivm/internal/ui"
)

// The names of the virtio-serial ports.
const (
	ControlPort = wire.ControlPort
	FSPort      = wire.FSPort
)

const (
	handshakeLimit = 10 * time.Second
	writeLimit     = 30 * time.Second // for one frame: an agent always reads
	tellLimit      = 2 * time.Second  // for a frame on whose arrival a user waits, such as a signal
	maxPending     = 64
)

// ErrGone is wrapped by the errors of a session whose VM closed the connection.
var ErrGone = errors.New("the VM ended")

// ErrStuck is wrapped by the errors of a session whose guest does not read any more.
var ErrStuck = errors.New("the guest does not read what it is sent")

// ErrProtocol is wrapped by the errors of a session whose guest broke the protocol.
var ErrProtocol = wire.ErrProtocol

// A Session is a connection to the agent in a VM. Its methods may be called from
// several goroutines.
type Session struct {
	conn net.Conn
	send chan struct{} // holds one token: the right to write

	mu      sync.Mutex
	next    uint32
	pending map[uint32]chan<- wire.ReplyMessage
	running map[uint32]*Process
	pool    uint32 // credit that is not given to a stream
	err     error
	done    chan struct{}
}

// Connect performs the handshake on conn, the host's end of ControlPort, within 10
// seconds. It closes conn if it fails.
func Connect(ctx context.Context, conn net.Conn) (*Session, error) {
	return ConnectWithin(ctx, conn, handshakeLimit)
}

// ConnectWithin is Connect with another limit, for a VM that is still booting.
func ConnectWithin(ctx context.Context, conn net.Conn, limit time.Duration) (*Session, error) {
	s := &Session{
		conn: conn, send: make(chan struct{}, 1), done: make(chan struct{}),
		pending: map[uint32]chan<- wire.ReplyMessage{}, running: map[uint32]*Process{}, pool: totalCredit,
	}
	s.send <- struct{}{}
	r := bufio.NewReaderSize(conn, 256<<10)
	if err := s.handshake(ctx, r, limit); err != nil {
		conn.Close()
		return nil, err
	}
	go s.read(r)
	return s, nil
}

func (s *Session) handshake(ctx context.Context, r *bufio.Reader, limit time.Duration) error {
	stop := context.AfterFunc(ctx, func() { s.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := s.conn.SetDeadline(time.Now().Add(limit)); err != nil {
		return fmt.Errorf("connecting to the agent in the guest: %w", err)
	}
	var nonce [wire.NonceSize]byte
	rand.Read(nonce[:])
	_, err := s.conn.Write(wire.Greeting(nonce))
	if err == nil {
		err = wire.ReadAnswer(r, nonce)
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("the agent in the guest did not answer within %v: %w", limit, err)
	case err != nil:
		return fmt.Errorf("connecting to the agent in the guest: %w", lost(err))
	case !stop():
		return ctx.Err()
	}
	return s.conn.SetDeadline(time.Time{})
}

// lost marks an error that says that the other side has closed the connection.
func lost(err error) error {
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, end) {
			return fmt.Errorf("%w (%w)", ErrGone, err)
		}
	}
	return err
}

// Done is closed when the session has ended, by Close or a failure.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err returns why the session ended, nil while it lasts.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Close ends the session. What runs in the guest continues to run.
func (s *Session) Close() error {
	s.fail(net.ErrClosed)
	return nil
}

// fail ends the session and everything that waits for it.
func (s *Session) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return
	}
	s.err = err
	close(s.done)
	s.conn.Close()
	for _, p := range s.running {
		p.fail(err)
	}
	clear(s.running)
	clear(s.pending)
}

// read reads frames until the session ends.
func (s *Session) read(r io.Reader) {
	frames := wire.Reader{R: r, Accept: wire.FromGuest}
	for {
		h, payload, err := frames.Next()
		if err == nil {
			err = s.dispatch(h, payload)
		}
		if err != nil {
			s.fail(fmt.Errorf("connection to the agent in the guest: %w", lost(err)))
			return
		}
	}
}

func (s *Session) dispatch(h wire.Header, payload []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h.Type == wire.Reply {
		return s.reply(h.Stream, payload)
	}
	p := s.running[h.Stream]
	if p == nil {
		return fmt.Errorf("%w: a frame of type %d for a command that does not run", wire.ErrProtocol, h.Type)
	}
	return p.receive(h.Type, payload)
}

func (s *Session) reply(id uint32, payload []byte) error {
	waiting, known := s.pending[id]
	if !known {
		return fmt.Errorf("%w: a reply to no request", wire.ErrProtocol)
	}
	delete(s.pending, id)
	var m wire.ReplyMessage
	if err := json.Unmarshal(payload, &m); err != nil {
		return fmt.Errorf("%w: a reply that is not JSON", wire.ErrProtocol)
	}
	m.Error = ui.CleanTo(strings.ToValidUTF8(m.Error, "?"), 1000)
	m.Conflict = strings.ToValidUTF8(m.Conflict, "?")
	if p := s.running[id]; p != nil && (m.Error != "" || m.Errno != 0) {
		s.forget(p)
	}
	waiting <- m // has room for the only one
	return nil
}

// write writes one frame.
func (s *Session) write(ctx context.Context, frame []byte) error {
	return s.writeWithin(ctx, writeLimit, frame)
}

// tell writes one frame within tellLimit, or the session ends: what waits for a guest that does not read
// would wait with it.
func (s *Session) tell(frame []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), tellLimit)
	defer cancel()
	err := s.writeWithin(ctx, tellLimit, frame)
	if err != nil && ctx.Err() != nil {
		s.fail(fmt.Errorf("sending to the agent in the guest: %w", ErrStuck)) // another frame is not read
		return s.Err()
	}
	return err
}

func (s *Session) writeWithin(ctx context.Context, limit time.Duration, frame []byte) error {
	select {
	case <-s.send:
	case <-s.done:
		return s.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { s.send <- struct{}{} }()
	err := s.conn.SetWriteDeadline(time.Now().Add(limit))
	if err == nil {
		_, err = s.conn.Write(frame)
	}
	if err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = fmt.Errorf("%w: %w", ErrStuck, err)
		}
		// A part of the frame may have been written: nothing can follow it.
		s.fail(fmt.Errorf("sending to the agent in the guest: %w", lost(err)))
		return s.Err()
	}
	return nil
}

// post writes a frame for which nobody waits. A failure ends the session, where
// everyone sees it.
func (s *Session) post(t wire.Type, stream uint32, payload []byte) {
	_ = s.write(context.Background(), wire.Frame(t, stream, payload))
}

// call sends a request and waits for the reply, at most limit.
func (s *Session) call(ctx context.Context, limit time.Duration, t wire.Type, request any, p *Process) (wire.ReplyMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	payload, err := json.Marshal(request)
	if err != nil {
		return wire.ReplyMessage{}, err
	}
	if len(payload) > wire.MaxFrame {
		return wire.ReplyMessage{}, fmt.Errorf("a request of %d bytes is larger than %d", len(payload), wire.MaxFrame)
	}
	reply := make(chan wire.ReplyMessage, 1)
	id, err := s.register(reply, p)
	if err != nil {
		return wire.ReplyMessage{}, err
	}
	if err := s.write(ctx, wire.Frame(t, id, payload)); err != nil {
		s.mu.Lock()
		delete(s.pending, id)
		if p != nil {
			s.forget(p)
			p.id = 0
		}
		s.mu.Unlock()
		return wire.ReplyMessage{}, err
	}
	select {
	case m := <-reply:
		return m, nil
	case <-s.done:
		return wire.ReplyMessage{}, s.Err()
	case <-ctx.Done():
		// The reply stays expected.
		return wire.ReplyMessage{}, fmt.Errorf("the agent in the guest did not answer: %w", ctx.Err())
	}
}

// register gives a request its number.
func (s *Session) register(reply chan<- wire.ReplyMessage, p *Process) (uint32, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.err != nil:
		return 0, s.err
	case len(s.pending) >= maxPending:
		return 0, fmt.Errorf("the agent in the guest has not answered %d requests", maxPending)
	}
	s.next++
	s.pending[s.next] = reply
	if p != nil {
		p.id = s.next
		s.running[p.id] = p
	}
	return s.next, nil
}
