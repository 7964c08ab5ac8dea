package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/guestd/wire"
)

const (
	pipeSize    = 1 << 20
	defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// A command is one that the host has started.
type command struct {
	s        *server
	id       uint32
	pid      int // and process group
	in       *inlet
	out, err *stream  // err is nil with a terminal
	tty      *os.File // the terminal's other side
	lead     *leader
	ended    chan unix.WaitStatus
	done     chan struct{}
}

// A program is what to execute, by which user and where.
type program struct {
	Path     string
	Argv     []string
	Dir      string
	Env      []string
	UID, GID uint32
	Cgroup   string
}

// attributes are those of a new process of the program in a session of its own.
func (p *program) attributes(files []uintptr) (attr *syscall.ProcAttr, done func(), err error) {
	attr = &syscall.ProcAttr{Dir: p.Dir, Env: p.Env, Files: files, Sys: &syscall.SysProcAttr{}}
	if int(p.UID) != os.Getuid() || int(p.GID) != os.Getgid() {
		attr.Sys.Credential = &syscall.Credential{Uid: p.UID, Gid: p.GID, Groups: []uint32{p.GID}}
	}
	if p.Cgroup == "" {
		return attr, func() {}, nil
	}
	fd, err := unix.Open(p.Cgroup, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, fd
	return attr, func() { unix.Close(fd) }, nil
}

// start starts a command, answers the request, and carries its streams.
func (s *server) start(id uint32, r wire.StartRequest) error {
	s.mu.Lock()
	ready, count := s.ready, len(s.running)
	s.mu.Unlock()
	c := &command{s: s, id: id, ended: make(chan unix.WaitStatus, 1), done: make(chan struct{})}
	var err error
	switch {
	case !ready:
		err = errors.New("the guest is not set up")
	case count >= wire.MaxCommands:
		err = errors.New("too many commands")
	default:
		err = c.start(r)
	}
	if err != nil {
		s.replyError(id, err)
		return nil
	}
	s.mu.Lock()
	s.running[id] = c
	s.mu.Unlock()
	s.reply(id, wire.ReplyMessage{})
	go c.in.run(s.port, id)
	go c.out.run(s.port, id)
	if c.err != nil {
		go c.err.run(s.port, id)
	}
	go c.wait()
	return nil
}

func (c *command) start(r wire.StartRequest) error {
	p, err := c.s.guest.program(r)
	if err != nil {
		return err
	}
	if r.TTY != nil {
		return c.startTerminal(p, r)
	}
	return c.startPipes(p, r)
}

// program finds what to execute.
func (g *guest) program(r wire.StartRequest) (*program, error) {
	if len(r.Argv) == 0 {
		return nil, &startError{errno: unix.EINVAL, reason: "no command"}
	}
	p := &program{Argv: r.Argv, Dir: r.Dir, Env: r.Env, Cgroup: g.limits.dir, UID: uint32(g.uid), GID: uint32(g.gid)}
	name, home, shell := g.user, g.home, "/bin/bash"
	if r.Root || g.uid == 0 {
		p.UID, p.GID, name, home = g.rootUID, g.rootGID, "root", "/root"
	}
	if _, err := os.Stat(shell); err != nil {
		shell = "/bin/sh"
	}
	for _, d := range [][2]string{{"PATH", defaultPath}, {"HOME", home}, {"USER", name}, {"LOGNAME", name}, {"SHELL", shell}} {
		if _, set := variable(p.Env, d[0]); !set {
			p.Env = append(p.Env, d[0]+"="+d[1])
		}
	}
	if p.Dir == "" {
		p.Dir, _ = variable(p.Env, "HOME")
	}
	if info, err := os.Stat(p.Dir); err != nil {
		return nil, cannotStart(err, p.Dir)
	} else if !info.IsDir() {
		return nil, cannotStart(unix.ENOTDIR, p.Dir)
	}
	path, _ := variable(p.Env, "PATH")
	p.Path = lookPath(r.Argv[0], path, p.Dir)
	if p.Path == "" {
		return nil, cannotStart(unix.ENOENT, "")
	}
	return p, nil
}

func variable(env []string, name string) (string, bool) {
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			return v, true
		}
	}
	return "", false
}

// lookPath finds a program as execvp does, relative to dir; "" if there is none.
func lookPath(name, path, dir string) string {
	if strings.Contains(name, "/") {
		return name
	}
	denied := ""
	for _, d := range filepath.SplitList(path) {
		if d == "" {
			d = "."
		}
		file := filepath.Join(d, name)
		if !filepath.IsAbs(file) {
			file = filepath.Join(dir, file)
		}
		info, err := os.Stat(file)
		switch {
		case err != nil || !info.Mode().IsRegular():
		case info.Mode()&0o111 != 0:
			return file
		case denied == "":
			denied = file
		}
	}
	return denied
}

// startPipes starts the program with three pipes.
func (c *command) startPipes(p *program, r wire.StartRequest) (err error) {
	var open []int
	defer func() {
		for _, fd := range open {
			unix.Close(fd)
		}
	}()
	var host [3]*os.File
	var files []uintptr
	for i := range host {
		var fds [2]int
		if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
			return err
		}
		guestEnd, hostEnd := fds[1], fds[0]
		if i == 0 {
			guestEnd, hostEnd = fds[0], fds[1]
		} else {
			_, _ = unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, pipeSize) // quicker, if it may be
		}
		// The command may open /dev/stdout, also as another user than this process.
		if err := unix.Fchown(guestEnd, int(p.UID), int(p.GID)); err != nil {
			return err
		}
		if err := unix.SetNonblock(hostEnd, true); err != nil {
			return err
		}
		open = append(open, guestEnd)
		files = append(files, uintptr(guestEnd))
		host[i] = os.NewFile(uintptr(hostEnd), "pipe")
		defer func() {
			if err != nil {
				host[i].Close()
			}
		}()
	}
	attr, done, err := p.attributes(files)
	if err != nil {
		return err
	}
	defer done()
	attr.Sys.Setsid = true
	c.pid, err = c.s.reaper.start(p.Path, p.Argv, attr, c.changed)
	if err != nil {
		return cannotStart(err, "")
	}
	c.in = newInlet(host[0], false)
	c.out = newStream(host[1], wire.Stdout, wire.StdoutEnd, r.OutCredit)
	c.err = newStream(host[2], wire.Stderr, wire.StderrEnd, r.ErrCredit)
	return nil
}

// changed is called by the reaper.
func (c *command) changed(status unix.WaitStatus) {
	if status.Stopped() {
		go func() { _ = c.s.port.send(wire.Frame(wire.Stopped, c.id, nil)) }()
		return
	}
	c.ended <- status
}

// wait waits for the end of the command, and reports it after its output.
func (c *command) wait() {
	status := <-c.ended
	c.in.close()
	c.out.finish()
	<-c.out.done
	if c.err != nil {
		c.err.finish()
		<-c.err.done
		c.err.f.Close()
	} else {
		_ = c.s.port.send(wire.Frame(wire.StderrEnd, c.id, nil))
	}
	c.out.f.Close()
	c.s.mu.Lock()
	delete(c.s.running, c.id)
	c.s.mu.Unlock()
	code, signal := uint32(status.ExitStatus()), uint32(0)
	if status.Signaled() {
		code, signal = 0, uint32(status.Signal())
	}
	_ = c.s.port.send(wire.Frame(wire.Exited, c.id, wire.ExitPayload(code, signal)))
	close(c.done)
}

// drop stops the command's streams.
func (c *command) drop() {
	c.in.close()
	c.out.close()
	if c.err != nil {
		c.err.close()
	}
}

// signal sends a signal to the command's process group, and to the one in the
// foreground of its terminal.
func (c *command) signal(sig syscall.Signal) {
	_ = unix.Kill(-c.pid, sig)
	if c.tty == nil {
		return
	}
	if group, err := ioctlInt(c.tty, unix.TIOCGPGRP); err == nil && group > 1 && group != c.pid {
		_ = unix.Kill(-group, sig)
	}
}

// receive takes a frame of the host.
func (c *command) receive(t wire.Type, payload []byte) error {
	switch t {
	case wire.Stdin:
		return c.in.add(payload)
	case wire.StdinEnd:
		c.in.finish()
	case wire.GrantOut:
		c.out.grant(wire.ParseNumber(payload))
	case wire.GrantErr:
		if c.err != nil {
			c.err.grant(wire.ParseNumber(payload))
		}
	case wire.CloseOut:
		c.out.close()
	case wire.CloseErr:
		if c.err != nil {
			c.err.close()
		}
	case wire.Resize:
		if c.tty != nil {
			resize(c.tty, wire.ParseSize(payload))
		}
	case wire.Signal:
		if n := wire.ParseNumber(payload); n > 0 && n < 65 {
			c.signal(syscall.Signal(n))
		}
	case wire.Continue:
		if c.lead != nil {
			c.lead.foreground()
		}
		c.signal(unix.SIGCONT)
	}
	return nil
}
