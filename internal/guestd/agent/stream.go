package agent

import (
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/guestd/wire"
)

const (
	pieceSize = 128 << 10 // of output in one frame
	// hangupLimit is how long output of a terminal may come once its session's leader
	// has ended. It normally ends at once, by hangup.
	hangupLimit = 2 * time.Second
	maxRest     = 4 << 20 // of output after the end of a command with a terminal
)

// A stream carries an output of a command to the host, as far as its credit reaches.
type stream struct {
	f         *os.File
	data, end wire.Type
	tty       bool

	mu     sync.Mutex
	change sync.Cond
	credit int
	closed bool
	done   chan struct{}
}

func newStream(f *os.File, data, end wire.Type, credit uint32) *stream {
	s := &stream{f: f, data: data, end: end, credit: int(credit), done: make(chan struct{})}
	s.change.L = &s.mu
	return s
}

// grant adds credit.
func (s *stream) grant(n uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.credit = min(s.credit+int(n), wire.MaxWindow)
	s.change.Signal()
}

// close stops the stream: what writes to it gets SIGPIPE.
func (s *stream) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.change.Signal()
	if !s.tty {
		s.f.Close()
	} else {
		_ = s.f.SetReadDeadline(time.Unix(1, 0))
	}
}

// finish says that the command has ended: what it wrote is still sent, what its
// children write later is not.
func (s *stream) finish() {
	limit := time.Unix(1, 0)
	if s.tty {
		limit = time.Now().Add(hangupLimit)
	}
	_ = s.f.SetReadDeadline(limit)
}

// take waits for credit, and takes at most limit of it; 0 once the stream is closed.
func (s *stream) take(limit int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.credit == 0 && !s.closed {
		s.change.Wait()
	}
	if s.closed {
		return 0
	}
	n := min(s.credit, limit)
	s.credit -= n
	return n
}

func (s *stream) giveBack(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.credit += n
}

// run sends the output until its end.
func (s *stream) run(p *port, id uint32) {
	defer close(s.done)
	frame := make([]byte, wire.HeaderSize+pieceSize)
	read, rest := s.f.Read, -1
	for rest != 0 {
		limit := pieceSize
		if rest > 0 {
			limit = min(limit, rest)
		}
		allowed := s.take(limit)
		if allowed == 0 {
			break
		}
		n, err := read(frame[wire.HeaderSize : wire.HeaderSize+allowed])
		n = max(n, 0)
		s.giveBack(allowed - n)
		if n > 0 {
			wire.Header{Type: s.data, Stream: id, Length: uint32(n)}.Put(frame)
			if p.send(frame[:wire.HeaderSize+n]) != nil {
				break
			}
			if rest > 0 {
				rest -= n
			}
		}
		switch {
		case rest < 0 && errors.Is(err, os.ErrDeadlineExceeded):
			read, rest = s.rest()
		case err != nil && !errors.Is(err, unix.EINTR), rest > 0 && n == 0:
			rest = 0
		}
	}
	_ = p.send(wire.Frame(s.end, id, nil))
}

// rest is how to read what is there at the end of a command, and how much that is.
func (s *stream) rest() (read func([]byte) (int, error), n int) {
	raw, err := s.f.SyscallConn()
	if err != nil {
		return nil, 0
	}
	n = maxRest
	if !s.tty {
		if err := raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }); err != nil {
			return nil, 0
		}
	}
	return func(b []byte) (n int, err error) {
		if e := raw.Control(func(fd uintptr) { n, err = unix.Read(int(fd), b) }); e != nil {
			return 0, e
		}
		return n, err
	}, n
}

// An inlet carries input of the host to a command.
type inlet struct {
	f   *os.File
	tty bool

	mu     sync.Mutex
	change sync.Cond
	queue  []byte
	ended  bool // no more comes
	closed bool
}

func newInlet(f *os.File, tty bool) *inlet {
	in := &inlet{f: f, tty: tty}
	in.change.L = &in.mu
	return in
}

// add takes data. The host sends no more than it has credit for.
func (in *inlet) add(data []byte) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.queue)+len(data) > wire.StdinWindow {
		return wire.ErrProtocol
	}
	if !in.closed {
		in.queue = append(in.queue, data...)
		in.change.Signal()
	}
	return nil
}

// finish says that no more comes.
func (in *inlet) finish() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.ended = true
	in.change.Signal()
}

// close ends the inlet with the command.
func (in *inlet) close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.ended, in.closed, in.queue = true, true, nil
	in.change.Signal()
	if !in.tty {
		in.f.Close()
	} else {
		_ = in.f.SetWriteDeadline(time.Unix(1, 0))
	}
}

func (in *inlet) take() []byte {
	in.mu.Lock()
	defer in.mu.Unlock()
	for len(in.queue) == 0 && !in.ended {
		in.change.Wait()
	}
	data := in.queue
	in.queue = nil
	return data
}

// run writes the input until its end.
func (in *inlet) run(p *port, id uint32) {
	for {
		data := in.take()
		if len(data) == 0 {
			break
		}
		if _, err := in.f.Write(data); err != nil {
			in.mu.Lock()
			told := in.closed
			in.closed = true
			in.mu.Unlock()
			if !told {
				_ = p.send(wire.Frame(wire.StdinClosed, id, nil))
			}
			break
		}
		_ = p.send(wire.Frame(wire.GrantIn, id, wire.Number(uint32(len(data)))))
	}
	if in.tty {
		return
	}
	in.f.Close()
}
