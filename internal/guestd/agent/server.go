package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/guestd/wire"
)

// A server serves the connections of the host, one after another.
type server struct {
	port   *port
	init   bool // process 1 of a VM
	reaper *reaper
	guest  guest // what Setup has set

	mu      sync.Mutex
	ready   bool // Setup was done
	running map[uint32]*command
	spare   *leader // waits for the next command with a terminal
}

func newServer(fd int, init bool) *server {
	s := &server{port: newPort(fd, init), init: init, running: map[uint32]*command{}, reaper: newReaper()}
	s.spare = s.newLeader()
	s.guest.mounts.reaper = s.reaper
	if init {
		// One that cannot start now is started, or fails, when it is needed.
		s.guest.mounts.spare, _ = newRelay(s.reaper)
	}
	return s
}

// serve serves one connection. It returns an error if there can be no other.
func (s *server) serve() error {
	if err := s.port.accept(); err != nil {
		return fmt.Errorf("waiting for the host: %w", err)
	}
	frames := wire.Reader{R: s.port.r, Accept: wire.FromHost}
	for {
		again, err := s.port.greeted()
		var h wire.Header
		var payload []byte
		if err == nil && !again {
			h, payload, err = frames.Next()
		}
		if err == nil && !again {
			err = s.dispatch(h, payload)
		}
		switch {
		case errors.Is(err, errPrepared):
			return nil
		case err != nil || again:
			s.endAll()
			if err != nil && !errors.Is(err, io.EOF) {
				logf("connection of the host: %v", err)
			}
			if s.init {
				return nil
			}
			return err
		}
	}
}

// errPrepared ends a connection: the next bytes are of another host.
var errPrepared = errors.New("prepared to be saved")

// reply answers a request. Once the connection is lost, nobody reads the answer.
func (s *server) reply(id uint32, m wire.ReplyMessage) {
	if len(m.Error) > 4<<10 {
		m.Error = m.Error[:4<<10]
	}
	b, err := json.Marshal(m)
	if err != nil {
		b = []byte(`{"Error":"encoding the reply failed"}`)
	}
	_ = s.port.send(wire.Frame(wire.Reply, id, b))
}

func (s *server) replyError(id uint32, err error) {
	var m wire.ReplyMessage
	var conflict *conflictError
	var start *startError
	switch {
	case err == nil:
	case errors.As(err, &conflict):
		m = wire.ReplyMessage{Error: conflict.reason, Conflict: conflict.path}
	case errors.As(err, &start):
		m = wire.ReplyMessage{Error: start.reason, Errno: int(start.errno)}
	default:
		m.Error = err.Error()
	}
	s.reply(id, m)
}

func (s *server) dispatch(h wire.Header, payload []byte) error {
	switch h.Type {
	case wire.Setup:
		var r wire.SetupRequest
		if err := json.Unmarshal(payload, &r); err != nil {
			return err
		}
		s.replyError(h.Stream, s.setup(r))
	case wire.Start:
		var r wire.StartRequest
		if err := json.Unmarshal(payload, &r); err != nil {
			return err
		}
		return s.start(h.Stream, r)
	case wire.Prepare:
		var r wire.PrepareRequest
		if err := json.Unmarshal(payload, &r); err != nil {
			return err
		}
		s.replyError(h.Stream, s.prepare(r))
		return errPrepared
	case wire.Flush:
		go func() { s.replyError(h.Stream, s.flush()) }()
	case wire.PowerOff:
		go s.powerOff(h.Stream)
	default:
		if c := s.command(h.Stream); c != nil {
			return c.receive(h.Type, payload)
		}
	}
	return nil
}

// command returns a running command. A frame for one that has ended crossed its end.
func (s *server) command(id uint32) *command {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running[id]
}

// endAll kills all commands and everything they started, and waits until their
// streams are closed.
func (s *server) endAll() {
	s.mu.Lock()
	commands := make([]*command, 0, len(s.running))
	for _, c := range s.running {
		commands = append(commands, c)
	}
	s.mu.Unlock()
	for _, c := range commands {
		c.signal(syscall.SIGKILL)
		c.drop()
	}
	s.guest.limits.killAll()
	for _, c := range commands {
		<-c.done
	}
}

// A startError says why a command cannot be started.
type startError struct {
	errno  syscall.Errno
	reason string
}

func (e *startError) Error() string { return e.reason }

// cannotStart makes a startError of an error.
func cannotStart(err error, what string) error {
	errno := syscall.EINVAL
	errors.As(err, &errno)
	reason := errno.Error()
	if errno == unix.ENOENT && what == "" {
		reason = "not found"
	}
	if what != "" {
		reason = what + ": " + reason
	}
	return &startError{errno: errno, reason: reason}
}
