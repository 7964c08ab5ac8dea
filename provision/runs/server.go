package runs

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/guestd"
)

// Process is a command that runs in the VM.
type Process interface {
	Resize(guestd.Size) error
	Signal(syscall.Signal) error
	Wait() (guestd.Exit, error)
	Stops() <-chan struct{}
	Continue() error
}

// VM is what a run answers with: it starts commands in its VM and ends.
type VM interface {
	Start(ctx context.Context, c guestd.Command) (Process, error)
	End() // asks the run to end
}

// Command is a command to run in the VM of a run.
type Command struct {
	Argv []string `json:"argv"` // empty: a shell
	Dir  string   `json:"dir"`  // "": where the run's own command runs
	Env  []string `json:"env"`
	Root bool     `json:"root"`
	TTY  bool     `json:"tty"`
	Size guestd.Size
}

// request is the first message of a client, with three descriptors for exec, and reply what it gets;
// further requests of a client are about the command it started.
type request struct {
	Exec   *Command     `json:"exec,omitempty"`
	Stop   bool         `json:"stop,omitempty"`
	Resize *guestd.Size `json:"resize,omitempty"`
	Signal int          `json:"signal,omitempty"`
	Resume bool         `json:"resume,omitempty"`
}

type reply struct {
	OK      bool         `json:"ok,omitempty"`
	Error   string       `json:"error,omitempty"`
	Stopped bool         `json:"stopped,omitempty"`
	Exit    *guestd.Exit `json:"exit,omitempty"`
}

const (
	maxRequest = 4 << 20 // a command line of Linux has at most 2 MiB of arguments in most settings
	handshake  = 10 * time.Second
)

// Serve answers on the run's socket until the returned function is called.
func (g *Registered) Serve(ctx context.Context, vm VM) (stop func(), err error) {
	dir, err := os.OpenFile(g.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: controlPath(dir), Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // removeRun does it, and the path of the descriptor is not valid any more
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			go serve(ctx, c, vm)
		}
	}()
	return func() { cancel(); _ = l.Close() }, nil
}

// controlPath returns a path of the socket in an open directory. It is short whatever the length of the
// directory's path: an address of a socket has 108 bytes.
func controlPath(dir *os.File) string {
	return "/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/" + controlName
}

// serve answers one client.
func serve(ctx context.Context, c *net.UnixConn, vm VM) {
	defer c.Close()
	if uid, _, err := peer(c); err != nil || uid != os.Geteuid() {
		return
	}
	_ = c.SetDeadline(time.Now().Add(handshake))
	first, files, err := receive(c)
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	if err != nil {
		return
	}
	in := json.NewDecoder(io.MultiReader(first, io.LimitReader(c, maxRequest)))
	var q request
	if err := in.Decode(&q); err != nil {
		return
	}
	_ = c.SetDeadline(time.Time{})
	switch {
	case q.Stop:
		vm.End()
		_ = json.NewEncoder(c).Encode(reply{OK: true})
		<-ctx.Done() // the client waits for the end of the run, which closes the connection
	case q.Exec != nil && len(files) == 3:
		in = json.NewDecoder(io.MultiReader(in.Buffered(), c))
		(&served{conn: json.NewEncoder(c)}).exec(ctx, in, *q.Exec, files, vm)
	}
}

// peer returns the user and the process at the other end of a connection.
func peer(c *net.UnixConn) (uid, pid int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, 0, err
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) { cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, 0, err
	}
	if cerr != nil {
		return 0, 0, cerr
	}
	return int(cred.Uid), int(cred.Pid), nil
}

// receive reads the first part of a message, and the descriptors with it.
func receive(c *net.UnixConn) (io.Reader, []*os.File, error) {
	b, oob := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(8*4))
	n, oobn, _, _, err := c.ReadMsgUnix(b, oob)
	if err != nil {
		return nil, nil, err
	}
	var files []*os.File
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	for _, m := range messages {
		fds, ferr := unix.ParseUnixRights(&m)
		if ferr != nil {
			continue
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			_ = unix.SetNonblock(fd, true) // they are pipes of the client
			files = append(files, os.NewFile(uintptr(fd), "stream"))
		}
	}
	return &firstPart{b[:n]}, files, err
}

// firstPart returns its bytes once.
type firstPart struct{ b []byte }

func (f *firstPart) Read(p []byte) (int, error) {
	if len(f.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, f.b)
	f.b = f.b[n:]
	return n, nil
}

// served is a command that a client started.
type served struct {
	mu   sync.Mutex
	conn *json.Encoder
}

func (s *served) send(r reply) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.conn.Encode(r)
}

// exec runs a command of a client, until the command ends or the client is gone.
func (s *served) exec(ctx context.Context, in *json.Decoder, c Command, files []*os.File, vm VM) {
	start := guestd.Command{Argv: c.Argv, Dir: c.Dir, Env: c.Env, Root: c.Root, Stdin: files[0], Stdout: files[1], Stderr: files[2]}
	if c.TTY {
		start.TTY = &c.Size
	}
	p, err := vm.Start(ctx, start)
	if err != nil {
		s.send(reply{Error: err.Error()})
		return
	}
	s.send(reply{OK: true})
	over := make(chan struct{})
	defer close(over)
	go s.follow(in, p, over)
	exit, err := p.Wait()
	for _, f := range files {
		f.Close() // the client reads its pipes to their end
	}
	if err != nil {
		s.send(reply{Error: err.Error()})
		return
	}
	s.send(reply{Exit: &exit})
}

// follow passes on what the client says about its command, and reports to it that the command stopped. A
// client that is gone ends its command.
func (s *served) follow(in *json.Decoder, p Process, over <-chan struct{}) {
	go func() {
		for {
			select {
			case <-p.Stops():
				s.send(reply{Stopped: true})
			case <-over:
				return
			}
		}
	}()
	for {
		var q request
		if err := in.Decode(&q); err != nil {
			_ = p.Signal(syscall.SIGHUP)
			_ = p.Continue()
			select {
			case <-over:
			case <-time.After(2 * time.Second):
				_ = p.Signal(syscall.SIGKILL)
			}
			return
		}
		switch {
		case q.Resize != nil:
			_ = p.Resize(*q.Resize)
		case q.Signal > 0 && q.Signal < 65:
			_ = p.Signal(syscall.Signal(q.Signal))
		case q.Resume:
			_ = p.Continue()
		}
	}
}
