package runs

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/guestd"
	"aivm.dev/aivm/internal/ui"
)

// endsWithin is how long a run may take to end after it was asked to.
const endsWithin = 7 * time.Second

// dial connects to the aivm of a run, which is a process of this user: pid.
func (r Registry) dial(rec Record) (c *net.UnixConn, pid int, err error) {
	dir, err := os.OpenFile(filepath.Join(r.Dir, rec.ID), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, 0, ui.Failed("the run %s ended", rec.Name)
	}
	defer dir.Close()
	c, err = net.DialUnix("unix", nil, &net.UnixAddr{Name: controlPath(dir), Net: "unix"})
	if err != nil {
		return nil, 0, ui.Failed("the run %s does not answer: it is just starting, or it ends: %w", rec.Name, err)
	}
	uid, pid, err := peer(c)
	if err != nil || uid != os.Geteuid() {
		c.Close()
		return nil, 0, ui.Failed("the run %s belongs to another user", rec.Name)
	}
	return c, pid, nil
}

// Stop asks a run to end and waits until it has. A run that does not answer is killed.
func (r Registry) Stop(rec Record) error {
	c, pid, err := r.dial(rec)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := json.NewEncoder(c).Encode(request{Stop: true}); err != nil {
		return ui.Failed("asking the run %s to end: %w", rec.Name, err)
	}
	_ = c.SetReadDeadline(time.Now().Add(endsWithin))
	_, err = io.Copy(io.Discard, c)
	if errors.Is(err, os.ErrDeadlineExceeded) && pid > 1 {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	for range 100 {
		if !alive(filepath.Join(r.Dir, rec.ID)) {
			removeRun(filepath.Join(r.Dir, rec.ID))
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return ui.Failed("the run %s did not end", rec.Name)
}

// Streams are the three streams of a command.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// Exec starts a command in the VM of a run.
func (r Registry) Exec(rec Record, cmd Command, s Streams) (Process, error) {
	c, _, err := r.dial(rec)
	if err != nil {
		return nil, err
	}
	p := &remote{conn: c, out: json.NewEncoder(c), stops: make(chan struct{}, 1), ended: make(chan struct{}), name: rec.Name}
	if err := p.start(cmd, s); err != nil {
		c.Close()
		return nil, err
	}
	return p, nil
}

// remote is a command in the VM of another aivm's run.
type remote struct {
	conn   *net.UnixConn
	mu     sync.Mutex // guards out
	out    *json.Encoder
	stops  chan struct{}
	copies sync.WaitGroup
	ended  chan struct{} // closed when exit and err are set
	exit   guestd.Exit
	err    error
	name   string
}

// start sends the request with one end of three pipes; the other ends are copied here. So the run never
// touches this process's terminal, which may be its own.
func (p *remote) start(cmd Command, s Streams) error {
	var theirEnds, ownEnds []*os.File
	closeAll := func(files []*os.File) {
		for _, f := range files {
			f.Close()
		}
	}
	for i := range 3 {
		r, w, err := os.Pipe()
		if err != nil {
			closeAll(theirEnds)
			closeAll(ownEnds)
			return ui.Failed("making a pipe: %w", err)
		}
		if i > 0 {
			r, w = w, r
		}
		theirEnds, ownEnds = append(theirEnds, r), append(ownEnds, w)
	}
	err := p.request(cmd, theirEnds)
	closeAll(theirEnds)
	if err != nil {
		closeAll(ownEnds)
		return err
	}
	go func() {
		_, _ = io.Copy(ownEnds[0], s.In)
		ownEnds[0].Close()
	}()
	p.copies.Go(func() { drain(s.Out, ownEnds[1]) })
	p.copies.Go(func() { drain(s.Err, ownEnds[2]) })
	return nil
}

// drain copies a stream of the command. When its reader is gone, the pipe is closed, and the command gets
// SIGPIPE as it does without a VM.
func drain(to io.Writer, from *os.File) {
	_, _ = io.Copy(to, from)
	from.Close()
}

// request sends the request and waits for the answer to it.
func (p *remote) request(cmd Command, files []*os.File) error {
	text, err := json.Marshal(request{Exec: &cmd})
	if err != nil {
		return ui.Failed("describing the command: %w", err)
	}
	if len(text) > maxRequest {
		return ui.Refused("the command line is too long for a run: %d bytes", len(text))
	}
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	// The descriptors go with the first byte; a long request is more than one packet.
	if _, _, err = p.conn.WriteMsgUnix(text[:1], unix.UnixRights(fds...), nil); err == nil {
		_, err = p.conn.Write(text[1:])
	}
	if err != nil {
		return ui.Failed("asking the run %s: %w", p.name, err)
	}
	in := json.NewDecoder(p.conn)
	var first reply
	_ = p.conn.SetReadDeadline(time.Now().Add(2 * handshake))
	if err := in.Decode(&first); err != nil {
		return ui.Failed("the run %s did not answer: %w", p.name, err)
	}
	_ = p.conn.SetReadDeadline(time.Time{})
	if !first.OK {
		return ui.Failed("the run %s: %s", p.name, ui.CleanTo(first.Error, 500))
	}
	go p.follow(in)
	return nil
}

// follow reads what the run reports about the command.
func (p *remote) follow(in *json.Decoder) {
	defer close(p.ended)
	for {
		var r reply
		switch err := in.Decode(&r); {
		case err != nil:
			p.err = ui.Failed("the run %s ended before the command did", p.name)
			return
		case r.Error != "":
			p.err = ui.Failed("the run %s: %s", p.name, ui.CleanTo(r.Error, 500))
			return
		case r.Exit != nil:
			p.exit = *r.Exit
			return
		case r.Stopped:
			select {
			case p.stops <- struct{}{}:
			default:
			}
		}
	}
}

func (p *remote) send(q request) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Encode(q)
}

// Resize tells the command the new size of its terminal.
func (p *remote) Resize(s guestd.Size) error { return p.send(request{Resize: &s}) }

// Signal sends the command a signal.
func (p *remote) Signal(s syscall.Signal) error { return p.send(request{Signal: int(s)}) }

// Continue continues the command after it stopped itself.
func (p *remote) Continue() error { return p.send(request{Resume: true}) }

// Stops receives a value when the command stopped itself.
func (p *remote) Stops() <-chan struct{} { return p.stops }

// Wait waits until the command ended and its output was written.
func (p *remote) Wait() (guestd.Exit, error) {
	<-p.ended
	if p.err == nil {
		p.copies.Wait()
	}
	_ = p.conn.Close()
	return p.exit, p.err
}
