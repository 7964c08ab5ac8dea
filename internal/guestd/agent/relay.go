package agent

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	fuseHeader  = 16
	fuseLargest = 1<<20 + 64<<10 // a message: 1 MiB of data and its headers
	hostLimit   = 10 * time.Second
)

// The messages of the folder server pass through a second process of the agent, the
// relay. Process 1 must not do that: it waits for folders itself in system calls during
// which Go's runtime cannot stop its other threads, as when it starts a command in a
// folder; a garbage collection would then stop the answer it waits for. A relay always
// waits in a template, since a program takes long to start.

const (
	relayLimit = 2 * hostLimit   // for the answer of a relay
	relayEnd   = 2 * time.Second // for its end after the unmount
)

// A relay is process 1's side of such a process.
type relay struct {
	pid    int
	conn   *os.File
	answer *json.Decoder
	waits  bool          // it has reported that it waits
	gone   chan struct{} // closed when it has ended
	done   chan struct{} // closed when what it served is unmounted after that
}

// A relayRequest tells a relay what to serve where.
type relayRequest struct{ Port, Dir string }

// A relayReply is what a relay reports: first that it waits, then what became of the
// request.
type relayReply struct{ Error string }

// newRelay starts a relay.
func newRelay(r *reaper) (*relay, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fds[1])
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		return nil, err
	}
	l := &relay{conn: os.NewFile(uintptr(fds[0]), "relay"), gone: make(chan struct{}), done: make(chan struct{})}
	l.answer = json.NewDecoder(l.conn)
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		l.conn.Close()
		return nil, err
	}
	defer unix.Close(null)
	attr := &syscall.ProcAttr{
		Dir: "/", Env: os.Environ(),
		Files: []uintptr{uintptr(null), uintptr(null), uintptr(null), uintptr(fds[1])},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	}
	l.pid, err = r.start("/proc/self/exe", []string{"agent", "relay"}, attr, func(status unix.WaitStatus) {
		if !status.Stopped() {
			close(l.gone)
		}
	})
	if err != nil {
		l.conn.Close()
		return nil, err
	}
	return l, nil
}

// wait waits until the relay waits for its request.
func (l *relay) wait() error {
	select {
	case <-l.gone:
		return errors.New("the relay has ended")
	default:
	}
	if l.waits {
		return nil
	}
	_, err := l.reply()
	l.waits = err == nil
	return err
}

func (l *relay) reply() (relayReply, error) {
	var reply relayReply
	err := l.conn.SetReadDeadline(time.Now().Add(relayLimit))
	if err == nil {
		err = l.answer.Decode(&reply)
	}
	if err != nil {
		err = fmt.Errorf("the relay does not answer: %w", err)
	}
	return reply, err
}

// serve mounts the folder server behind the port at dir.
func (l *relay) serve(port, dir string) error {
	b, err := json.Marshal(relayRequest{Port: port, Dir: dir})
	if err == nil {
		_, err = l.conn.Write(append(b, '\n'))
	}
	var reply relayReply
	if err == nil {
		reply, err = l.reply()
	}
	if err == nil && reply.Error != "" {
		err = errors.New(reply.Error)
	}
	if err != nil {
		l.kill()
		_ = unix.Unmount(dir, unix.MNT_FORCE|unix.MNT_DETACH) // if it was killed in between
		return err
	}
	go func() {
		<-l.gone
		// Nothing will be answered any more: requests fail instead of waiting.
		_ = unix.Unmount(dir, unix.MNT_FORCE|unix.MNT_DETACH)
		close(l.done)
	}()
	return nil
}

// end waits until the relay of an unmounted server has ended, and so closed the port.
func (l *relay) end() {
	select {
	case <-l.done:
		l.conn.Close()
	case <-time.After(relayEnd): // something still uses the folders
		l.kill()
		select {
		case <-l.done:
		case <-time.After(relayEnd):
		}
	}
}

// kill ends the relay, and waits a while for that.
func (l *relay) kill() {
	l.conn.Close()
	select {
	case <-l.gone:
		return
	default:
		_ = unix.Kill(l.pid, unix.SIGKILL)
	}
	select {
	case <-l.gone:
	case <-time.After(relayEnd):
	}
}

// relayMain is the main function of a relay: it mounts what it is told to, and passes
// messages on until that is unmounted, or the port or process 1 ends. With its end the
// kernel ends the file system's connection: nobody waits for an answer any more.
func relayMain() int {
	unix.CloseOnExec(3)
	conn := os.NewFile(3, "agent")
	// As process 1, of which it is a part, it stays when all processes are told to end
	// and when memory is short.
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGTERM)
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0)
	requests, replies := json.NewDecoder(conn), json.NewEncoder(conn)
	if replies.Encode(relayReply{}) != nil {
		return 0
	}
	var r relayRequest
	if requests.Decode(&r) != nil {
		return 0 // not needed
	}
	port, fuse, err := mountRelay(r.Port, r.Dir)
	if err != nil {
		_ = replies.Encode(relayReply{Error: err.Error()})
		return 1
	}
	ended := make(chan error, 3)
	go func() {
		err := toHost(fuse, port)
		if !errors.Is(err, unix.ENODEV) { // unmounted
			logf("folder requests: %v", err)
		}
		ended <- err
	}()
	go func() {
		err := fromHost(port, fuse)
		if !errors.Is(err, unix.ENODEV) {
			logf("folder answers: %v", err)
		}
		ended <- err
	}()
	go func() { ended <- requests.Decode(&r) }()
	if replies.Encode(relayReply{}) != nil {
		return 1
	}
	<-ended
	return 0
}

// mountRelay mounts the folder server behind the port at dir: the messages of the
// kernel's FUSE go over the port as they are, each with its own length.
func mountRelay(path, dir string) (port, fuse int, err error) {
	port, err = unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, 0, fmt.Errorf("%s: %w", path, err)
	}
	if err := waitForHost(port); err != nil {
		return 0, 0, err
	}
	fuse, err = unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, 0, fmt.Errorf("/dev/fuse: %w", err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other,max_read=%d", fuse, 1<<20)
	return port, fuse, unix.Mount("aivm", dir, "fuse.aivm", unix.MS_NOSUID|unix.MS_NODEV, options)
}

// waitForHost waits until the host has opened its end of a port.
func waitForHost(port int) error {
	for deadline := time.Now().Add(hostLimit); ; time.Sleep(devicePoll) {
		state := []unix.PollFd{{Fd: int32(port), Events: unix.POLLOUT}}
		if _, err := unix.Poll(state, 0); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if state[0].Revents&unix.POLLHUP == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no file server on the host: %w", os.ErrDeadlineExceeded)
		}
	}
}

// toHost copies the kernel's requests to the port.
func toHost(fuse, port int) error {
	message := make([]byte, fuseLargest)
	for {
		n, err := unix.Read(fuse, message)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOENT) { // ENOENT: it was interrupted
			continue
		}
		if err != nil {
			return err
		}
		if err := writeAll(port, message[:n]); err != nil {
			return err
		}
	}
}

// fromHost copies the answers of the host to the kernel.
func fromHost(port, fuse int) error {
	message := make([]byte, fuseLargest)
	have := 0
	for {
		n, err := unix.Read(port, message[have:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil && n == 0 {
			err = errors.New("the file server on the host has ended")
		}
		if err != nil {
			return err
		}
		have += n
		done := 0
		for have-done >= fuseHeader {
			length := int(binary.LittleEndian.Uint32(message[done:]))
			if length < fuseHeader || length > fuseLargest {
				return fmt.Errorf("a message of %d bytes", length)
			}
			if have-done < length {
				break
			}
			// An answer the kernel does not want (to an interrupted request) is dropped.
			if _, err := unix.Write(fuse, message[done:done+length]); errors.Is(err, unix.ENODEV) {
				return err
			}
			done += length
		}
		have = copy(message, message[done:have])
	}
}

func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
