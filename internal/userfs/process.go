package userfs

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/userfs/jail"
)

// Descriptors of the server's process.
const (
	controlFD   = 3
	transportFD = 4
	exportFD    = 5 // the first of the exports
)

// settings are the server's argument.
type settings struct {
	Jail    jail.Kind
	Entered bool // Landlock is in force: the program has executed itself
	Exports []Export
}

// event is a line that the server writes to its control socket.
type event struct {
	Ready   bool   `json:",omitempty"`
	Failed  string `json:",omitempty"`
	Written bool   `json:",omitempty"`
	Export  int    `json:",omitempty"`
	Path    []byte `json:",omitempty"`
	Cut     bool   `json:",omitempty"` // there are more written files than are reported
}

// Limits of the events: the longest path, how much of its end is kept if it is longer, and the longest
// line.
const (
	maxPath  = 4096
	maxEnd   = 1024
	maxEvent = 2 << 20
)

// shorten replaces directories in the middle of a path that is too long by "...".
func shorten(path string) string {
	const mark = "/.../"
	if len(path) <= maxPath {
		return path
	}
	begin, end := path[:maxPath-maxEnd-len(mark)], path[len(path)-maxEnd:]
	if i := strings.LastIndexByte(begin, '/'); i > 0 {
		begin = begin[:i]
	}
	if i := strings.IndexByte(end, '/'); i >= 0 {
		end = end[i+1:]
	}
	return begin + mark + end
}

// control is the parent's end of the control socket.
type control struct{ file *os.File }

// end tells the server to end. What it has written before can still be read.
func (c *control) end() {
	if raw, err := c.file.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_WR) }) // fails if the server has ended
	}
}

// start starts the server in one jail and waits until it is ready.
func start(ctx context.Context, c Config, kind jail.Kind, transport *os.File, dirs []*os.File) (*Server, error) {
	arg, err := json.Marshal(settings{Jail: kind, Exports: c.Exports})
	if err != nil {
		return nil, err
	}
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("creating the control socket: %w", err)
	}
	parent, child := os.NewFile(uintptr(ends[0]), "control"), os.NewFile(uintptr(ends[1]), "control")
	program := c.Program
	if program == nil {
		program = []string{"/proc/self/exe"}
	}
	cmd := exec.Command(program[0])
	cmd.Args = append(append([]string{Arg0}, program[1:]...), string(arg))
	cmd.Dir = "/"
	cmd.Env = []string{"GOMAXPROCS=4", "GODEBUG=" + os.Getenv("GODEBUG")}
	cmd.ExtraFiles = append([]*os.File{child, transport}, dirs...)
	cmd.SysProcAttr = jail.Process(kind)
	words := &tail{}
	cmd.Stderr = words
	s := &Server{jail: kind, exports: len(c.Exports), control: &control{parent}, done: make(chan struct{})}
	ended, err := run(cmd)
	child.Close()
	if err != nil {
		parent.Close()
		return nil, err
	}
	s.pid = cmd.Process.Pid
	ready := make(chan error, 1)
	go s.follow(ended, words, ready)
	ctx, cancel := context.WithTimeoutCause(ctx, startTime, errors.New("it did not start in time"))
	defer cancel()
	select {
	case err = <-ready:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = cmd.Process.Kill() // it may have ended
		<-s.done
		return nil, err
	}
	return s, nil
}

// run starts cmd from a thread that lives as long as the process: the process is killed when the
// thread that started it ends.
func run(cmd *exec.Cmd) (ended <-chan error, err error) {
	started, over := make(chan error), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		over <- cmd.Wait()
	}()
	return over, <-started
}

// follow reads the server's events until it ends.
func (s *Server) follow(ended <-chan error, words *tail, ready chan<- error) {
	failure := s.events(ready)
	err := <-ended
	if failure == nil && err != nil {
		failure = fmt.Errorf("the folder server ended: %w%s", err, words.suffix())
	}
	s.mu.Lock()
	s.err = failure
	s.mu.Unlock()
	if failure == nil {
		failure = errors.New("the folder server ended")
	}
	select {
	case ready <- failure:
	default: // Start has returned long ago
	}
	s.control.file.Close()
	close(s.done)
}

// events handles the events of the server. It is jailed, not trusted: what it reports is bounded.
func (s *Server) events(ready chan<- error) error {
	in := bufio.NewScanner(s.control.file)
	in.Buffer(nil, maxEvent)
	for in.Scan() {
		var e event
		if err := json.Unmarshal(in.Bytes(), &e); err != nil {
			return fmt.Errorf("the folder server reported something unreadable: %w", err)
		}
		switch {
		case e.Failed != "":
			return errors.New(strings.ToValidUTF8(e.Failed, "?"))
		case e.Ready:
			select {
			case ready <- nil:
			default:
			}
		case e.Written:
			if e.Export < 0 || e.Export >= s.exports {
				continue
			}
			s.mu.Lock()
			s.cut = s.cut || e.Cut || len(s.written) >= maxWritten
			if !s.cut {
				s.written = append(s.written, Written{e.Export, shorten(string(e.Path))})
			}
			s.mu.Unlock()
		}
	}
	return nil
}

// tail keeps the end of what a process writes to stderr.
type tail struct{ text []byte }

func (t *tail) Write(b []byte) (int, error) {
	t.text = append(t.text, b...)
	t.text = t.text[max(0, len(t.text)-4096):]
	return len(b), nil
}

func (t *tail) suffix() string {
	text := strings.TrimSpace(string(t.text))
	if text == "" {
		return ""
	}
	return ": " + text
}

// fileOf returns a descriptor as a file whose reads and writes do not hold a thread.
func fileOf(fd int, name string) (*os.File, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}
