package guestd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"time"

	"aivm.dev/aivm/internal/guestd/wire"
)

const (
	totalCredit = 8 << 20 // for the output of all commands of a session
	minCredit   = 64 << 10
	startLimit  = time.Minute
)

// Size is that of a terminal.
type Size = wire.Size

// A Command is what to run in the guest.
type Command struct {
	Argv []string
	Dir  string   // empty: the home directory
	Env  []string // PATH, HOME, USER, LOGNAME and SHELL have defaults
	Root bool
	TTY  *Size // nil: three separate streams

	// Stdin may be nil: no input. A read from it may still be waiting after Wait.
	Stdin          io.Reader
	Stdout, Stderr io.Writer // nil: discarded. With TTY all output is in Stdout.
}

// Exit is how a command ended, as wait(2) tells it.
type Exit struct {
	Code   int
	Signal syscall.Signal // 0 if it exited
}

// Status is the exit status a shell would give it.
func (e Exit) Status() int {
	if e.Signal != 0 {
		return 128 + int(e.Signal)
	}
	return e.Code
}

// A StartError says why a command could not be started.
type StartError struct {
	Name   string
	Reason string
	Errno  syscall.Errno // for errors.Is: ENOENT is fs.ErrNotExist
}

func (e *StartError) Error() string { return e.Name + ": " + e.Reason }
func (e *StartError) Unwrap() error { return e.Errno }

// A Process is a command in the guest.
type Process struct {
	s        *Session
	id       uint32
	out, err *output
	stops    chan struct{}
	input    chan struct{} // has a token when credit has arrived

	// guarded by s.mu
	credit   uint32 // for input
	closedIn bool
	exit     Exit
	failed   error
	ended    chan struct{}
}

// Start starts a command.
func (s *Session) Start(ctx context.Context, c Command) (*Process, error) {
	if len(c.Argv) == 0 || c.Argv[0] == "" {
		return nil, errors.New("no command")
	}
	for _, list := range [][]string{c.Argv, c.Env, {c.Dir}} {
		for _, v := range list {
			if strings.ContainsRune(v, 0) {
				return nil, fmt.Errorf("an argument or variable contains a NUL byte")
			}
		}
	}
	p := &Process{
		s: s, stops: make(chan struct{}, 1), input: make(chan struct{}, 1), ended: make(chan struct{}),
		credit: wire.StdinWindow,
	}
	p.out, p.err = newOutput(c.Stdout), newOutput(c.Stderr)
	request := wire.StartRequest{Argv: c.Argv, Dir: c.Dir, Env: c.Env, Root: c.Root, TTY: c.TTY}
	if err := s.reserve(p, &request); err != nil {
		return nil, err
	}
	m, err := s.call(ctx, startLimit, wire.Start, request, p)
	switch {
	case err != nil && s.Err() == nil && p.id != 0:
		// The answer may still come: then it must not run.
		p.out.w, p.err.w = io.Discard, io.Discard
		p.attend(nil)
		_ = p.tell(wire.Signal, wire.Number(uint32(syscall.SIGKILL)))
		return nil, fmt.Errorf("starting %s in the guest: %w", c.Argv[0], err)
	case err != nil:
		s.mu.Lock()
		s.forget(p)
		s.mu.Unlock()
		return nil, fmt.Errorf("starting %s in the guest: %w", c.Argv[0], err)
	case m.Error != "" || m.Errno != 0:
		return nil, &StartError{Name: c.Argv[0], Reason: m.Error, Errno: syscall.Errno(m.Errno)}
	}
	p.attend(c.Stdin)
	return p, nil
}

// reserve takes the credit for the command's output from what the session has.
func (s *Session) reserve(p *Process, r *wire.StartRequest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pool < 2*minCredit || len(s.running) >= wire.MaxCommands {
		return fmt.Errorf("%d commands run in this VM, and no more fit", len(s.running))
	}
	r.OutCredit = max(minCredit, s.pool/4)
	r.ErrCredit = max(minCredit, r.OutCredit/4)
	p.out.window, p.out.credit, p.out.quantum = r.OutCredit, r.OutCredit, r.OutCredit/4
	p.err.window, p.err.credit, p.err.quantum = r.ErrCredit, r.ErrCredit, r.ErrCredit/4
	s.pool -= r.OutCredit + r.ErrCredit
	return nil
}

// forget ends what the session knows of a command. s.mu is held.
func (s *Session) forget(p *Process) {
	if s.running[p.id] == p {
		delete(s.running, p.id)
	}
	s.pool += p.out.window + p.err.window
	p.out.window, p.err.window = 0, 0
}

// attend starts what carries the streams of a running command.
func (p *Process) attend(stdin io.Reader) {
	go p.out.run(p, wire.GrantOut, wire.CloseOut)
	go p.err.run(p, wire.GrantErr, wire.CloseErr)
	go p.feed(stdin)
}

// Resize tells the command's terminal its new size.
func (p *Process) Resize(size Size) error { return p.tell(wire.Resize, size.Put()) }

// Signal sends a signal to the command's process group.
func (p *Process) Signal(sig syscall.Signal) error {
	return p.tell(wire.Signal, wire.Number(uint32(sig)))
}

// Continue continues a command that stopped itself.
func (p *Process) Continue() error { return p.tell(wire.Continue, nil) }

// Stops receives a value when the command's process group has stopped.
func (p *Process) Stops() <-chan struct{} { return p.stops }

func (p *Process) tell(t wire.Type, payload []byte) error {
	select {
	case <-p.ended:
		return nil
	default:
		return p.s.tell(wire.Frame(t, p.id, payload))
	}
}

// Wait waits until the command has ended and all its output is written. If it could
// not be written, the error says why, and Exit is valid; if the session failed, it is
// not, and the error wraps why it did.
func (p *Process) Wait() (Exit, error) {
	<-p.ended
	<-p.out.finished
	<-p.err.finished
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	if p.failed != nil {
		return Exit{}, p.failed
	}
	return p.exit, errors.Join(p.out.failed, p.err.failed)
}

// fail ends the command for a session that failed. s.mu is held.
func (p *Process) fail(err error) {
	p.failed = err
	p.out.end()
	p.err.end()
	close(p.ended)
}

// receive takes a frame of the guest. s.mu is held.
func (p *Process) receive(t wire.Type, payload []byte) error {
	switch t {
	case wire.Stdout:
		return p.out.add(payload)
	case wire.Stderr:
		return p.err.add(payload)
	case wire.StdoutEnd:
		p.out.end()
	case wire.StderrEnd:
		p.err.end()
	case wire.GrantIn:
		n := wire.ParseNumber(payload)
		if n == 0 || n > wire.StdinWindow-p.credit {
			return fmt.Errorf("%w: credit for more input than was sent", wire.ErrProtocol)
		}
		p.credit += n
		p.wake()
	case wire.StdinClosed:
		p.closedIn = true
		p.wake()
	case wire.Stopped:
		select {
		case p.stops <- struct{}{}:
		default: // not yet taken
		}
	case wire.Exited:
		code, signal := wire.ParseExit(payload)
		p.exit = Exit{Code: int(code & 255), Signal: syscall.Signal(signal & 127)}
		p.out.end()
		p.err.end()
		p.s.forget(p)
		close(p.ended)
	}
	return nil
}

func (p *Process) wake() {
	select {
	case p.input <- struct{}{}:
	default:
	}
}

// feed sends the command's input as far as its credit reaches.
func (p *Process) feed(r io.Reader) {
	buf := make([]byte, 64<<10)
	for r != nil {
		n, ok := p.allowance(len(buf))
		if !ok {
			return
		}
		n, err := r.Read(buf[:n])
		if n > 0 {
			p.s.mu.Lock()
			p.credit -= uint32(n)
			p.s.mu.Unlock()
			p.s.post(wire.Stdin, p.id, buf[:n])
		}
		if err != nil {
			break
		}
	}
	select {
	case <-p.ended:
	default:
		p.s.post(wire.StdinEnd, p.id, nil)
	}
}

// allowance waits until input may be sent, and says how much, at most limit. It is
// false if the command takes none any more.
func (p *Process) allowance(limit int) (int, bool) {
	for {
		p.s.mu.Lock()
		credit, closed := int(p.credit), p.closedIn
		p.s.mu.Unlock()
		switch {
		case closed:
			return 0, false
		case credit > 0:
			return min(credit, limit), true
		}
		select {
		case <-p.input:
		case <-p.ended:
			return 0, false
		}
	}
}
