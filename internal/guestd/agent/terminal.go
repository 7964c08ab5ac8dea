package agent

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/guestd/wire"
)

// A command with a terminal needs a parent in its session but not in its process
// group: else its group is orphaned, and Ctrl-Z does nothing. Process 1 does not
// count as one. So a second process of the agent, the leader, leads the session.
// One always waits for its command, since a program takes long to start.

// A leader is the agent's side of such a process.
type leader struct {
	pid    int
	conn   *os.File
	answer *json.Decoder
}

// A leadRequest is what the agent tells a leader: first the program, then "put the
// command in the foreground".
type leadRequest struct {
	Terminal string
	Program  *program
}

// A leadEvent is what a leader reports: first PID or Errno, then stops, then the end.
type leadEvent struct {
	PID     int
	Errno   syscall.Errno
	Stopped bool
	Exited  bool
	Status  unix.WaitStatus
}

// newLeader starts a leader, nil if it cannot.
func (s *server) newLeader() *leader {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fds[1])
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		unix.Close(fds[0])
		return nil
	}
	defer unix.Close(null)
	attr := &syscall.ProcAttr{
		Dir: "/", Env: append(os.Environ(), "GOMAXPROCS=1"),
		Files: []uintptr{uintptr(null), uintptr(null), uintptr(null), uintptr(fds[1])},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	}
	l := &leader{conn: os.NewFile(uintptr(fds[0]), "leader")}
	l.answer = json.NewDecoder(l.conn)
	l.pid, err = s.reaper.start("/proc/self/exe", []string{"agent", "lead"}, attr, func(unix.WaitStatus) {})
	if err != nil {
		l.conn.Close()
		return nil
	}
	return l
}

func (l *leader) tell(r leadRequest) error {
	b, err := json.Marshal(r)
	if err == nil {
		_, err = l.conn.Write(append(b, '\n'))
	}
	return err
}

func (l *leader) foreground() { _ = l.tell(leadRequest{}) }

// startTerminal starts the program on a new terminal.
func (c *command) startTerminal(p *program, r wire.StartRequest) (err error) {
	c.s.mu.Lock()
	c.lead, c.s.spare = c.s.spare, nil
	c.s.mu.Unlock()
	if c.lead == nil {
		if c.lead = c.s.newLeader(); c.lead == nil {
			return errors.New("the agent cannot start a process")
		}
	}
	defer func() {
		if err != nil {
			c.lead.conn.Close() // ends it
			if c.tty != nil {
				c.tty.Close()
			}
		}
		go c.s.keepSpare()
	}()
	name, err := c.openTerminal(p, *r.TTY)
	if err != nil {
		return fmt.Errorf("opening a terminal: %w", err)
	}
	if err := c.lead.tell(leadRequest{Terminal: name, Program: p}); err != nil {
		return err
	}
	var e leadEvent
	if err := c.lead.answer.Decode(&e); err != nil {
		return fmt.Errorf("starting the command on a terminal: %w", err)
	}
	if e.Errno != 0 {
		return cannotStart(e.Errno, "")
	}
	c.pid = e.PID
	c.in = newInlet(c.tty, true)
	c.out = newStream(c.tty, wire.Stdout, wire.StdoutEnd, r.OutCredit)
	c.out.tty = true
	go c.follow()
	return nil
}

// keepSpare starts the leader for the next command.
func (s *server) keepSpare() {
	l := s.newLeader()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.spare == nil {
		s.spare = l
	} else if l != nil {
		l.conn.Close()
	}
}

// follow passes on what the leader reports.
func (c *command) follow() {
	for {
		var e leadEvent
		err := c.lead.answer.Decode(&e)
		switch {
		case err != nil: // it was killed
			_ = unix.Kill(-c.pid, unix.SIGKILL)
			c.ended <- unix.WaitStatus(unix.SIGKILL)
		case e.Exited:
			c.ended <- e.Status
		case e.Stopped:
			_ = c.s.port.send(wire.Frame(wire.Stopped, c.id, nil))
			continue
		}
		c.lead.conn.Close()
		return
	}
}

// openTerminal opens a new terminal for the program's user, and returns its path.
func (c *command) openTerminal(p *program, size wire.Size) (string, error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	c.tty = os.NewFile(uintptr(fd), "terminal")
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return "", err
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return "", err
	}
	settings, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return "", err
	}
	settings.Iflag |= unix.IUTF8
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, settings); err != nil {
		return "", err
	}
	resize(c.tty, size)
	name := fmt.Sprintf("/dev/pts/%d", number)
	return name, os.Chown(name, int(p.UID), -1)
}

func resize(tty *os.File, size wire.Size) {
	raw, err := tty.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Rows, Col: size.Cols})
	})
}

func ioctlInt(f *os.File, request uint) (n int, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	if e := raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), request) }); e != nil {
		return 0, e
	}
	return n, err
}

// lead is the main function of a leader: it takes the terminal, starts the command in
// a process group of its own in the foreground, and reports what becomes of it.
func lead() int {
	unix.CloseOnExec(3)
	conn := os.NewFile(3, "agent")
	requests, events := json.NewDecoder(bufio.NewReader(conn)), json.NewEncoder(conn)
	var r leadRequest
	if err := requests.Decode(&r); err != nil || r.Program == nil {
		return 0 // not needed
	}
	tty, pid, err := leadStart(r)
	if err != nil {
		errno := unix.EINVAL
		errors.As(err, &errno)
		_ = events.Encode(leadEvent{Errno: errno})
		return 1
	}
	if events.Encode(leadEvent{PID: pid}) != nil {
		return 1
	}
	go func() {
		var next leadRequest
		for requests.Decode(&next) == nil {
			_ = unix.IoctlSetPointerInt(tty, unix.TIOCSPGRP, pid)
		}
		_ = unix.Kill(-pid, unix.SIGKILL)
	}()
	for {
		var status unix.WaitStatus
		switch _, err := unix.Wait4(pid, &status, unix.WUNTRACED, nil); {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 1
		case status.Stopped():
			_ = events.Encode(leadEvent{Stopped: true})
		default:
			_ = events.Encode(leadEvent{Exited: true, Status: status})
			return 0
		}
	}
}

func leadStart(r leadRequest) (tty, pid int, err error) {
	// The first terminal a leader without one opens becomes its own.
	tty, err = unix.Open(r.Terminal, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, 0, err
	}
	attr, done, err := r.Program.attributes([]uintptr{uintptr(tty), uintptr(tty), uintptr(tty)})
	if err != nil {
		return 0, 0, err
	}
	defer done()
	attr.Sys.Setpgid = true
	// Traced, it stops before its first instruction, until it is in the foreground.
	attr.Sys.Ptrace = true
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pid, err = syscall.ForkExec(r.Program.Path, r.Program.Argv, attr)
	if err != nil {
		return 0, 0, err
	}
	if _, err := unix.Wait4(pid, nil, 0, nil); err != nil {
		return 0, 0, err
	}
	if err := unix.IoctlSetPointerInt(tty, unix.TIOCSPGRP, pid); err != nil {
		return 0, 0, err
	}
	return tty, pid, unix.PtraceDetach(pid)
}
