package userstack

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Buffers of one connection, in each direction. Data is read only when the other side
// takes it, so that the rest waits in the sender's kernel.
const (
	largeBuffer  = 256 << 10
	mediumBuffer = 128 << 10
	smallBuffer  = 64 << 10
)

// bufferSize returns the buffer size of a new connection when flows are open.
func bufferSize(flows int64) int64 {
	switch {
	case flows <= 64:
		return largeBuffer
	case flows <= 256:
		return mediumBuffer
	}
	return smallBuffer
}

func newGuestConn(queue *waiter.Queue, ep tcpip.Endpoint) net.Conn {
	return gonet.NewTCPConn(queue, ep)
}

// relay copies between this machine's connection and the guest's until both directions
// have ended, and closes both. A reset of one resets the other.
func relay(conn *net.TCPConn, ep tcpip.Endpoint, queue *waiter.Queue) {
	defer ep.Close()
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		ep.Abort()
		return
	}
	reset := func() {
		_ = conn.SetLinger(0)
		_ = conn.Close()
		ep.Abort()
	}
	var both sync.WaitGroup
	both.Go(func() {
		if download(raw, ep, queue) != nil {
			reset()
		}
	})
	if upload(raw, ep, queue) != nil {
		reset()
	} else {
		_ = conn.CloseWrite()
	}
	both.Wait()
}

var errGuest = errors.New("the guest's connection is broken")

// download copies from the socket to the guest, straight into the stack's buffers.
func download(raw syscall.RawConn, ep tcpip.Endpoint, queue *waiter.Queue) error {
	entry, writable := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventHUp | waiter.EventErr)
	queue.EventRegister(&entry)
	defer queue.EventUnregister(&entry)
	for {
		var failed error
		var terr tcpip.Error
		err := raw.Read(func(fd uintptr) bool {
			n, err := unix.IoctlGetInt(int(fd), unix.TIOCINQ)
			if err == nil && n <= 0 {
				n, err = waiting(int(fd))
				if err == unix.EAGAIN {
					return false
				}
			}
			if err != nil {
				failed = err
				return true
			}
			src := &socketReader{fd: int(fd), left: min(n, largeBuffer)}
			_, terr = ep.Write(src, tcpip.WriteOptions{})
			failed = src.err
			return true
		})
		switch {
		case err != nil:
			return err
		case failed == io.EOF:
			if terr := ep.Shutdown(tcpip.ShutdownWrite); terr != nil {
				return errGuest
			}
			return nil
		case failed != nil:
			return failed
		}
		switch terr.(type) {
		case nil:
		case *tcpip.ErrWouldBlock:
			<-writable
		default:
			return errGuest
		}
	}
}

// waiting returns how many bytes can be read from a socket where none could a moment
// ago, io.EOF at its end, EAGAIN for none.
func waiting(fd int) (int, error) {
	var one [1]byte
	n, _, err := unix.Recvfrom(fd, one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	switch {
	case err != nil:
		return 0, err
	case n == 0:
		return 0, io.EOF
	}
	return unix.IoctlGetInt(fd, unix.TIOCINQ)
}

// socketReader is the payload of one write to the guest: bytes that wait in a socket.
type socketReader struct {
	fd   int
	left int
	err  error
}

func (s *socketReader) Len() int { return s.left }

func (s *socketReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, _, err := unix.Recvfrom(s.fd, p, unix.MSG_DONTWAIT)
	if err == nil && n == 0 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		s.err = err
		return 0, err
	}
	s.left -= n
	return n, nil
}

// upload copies from the guest to the socket, straight from the stack's buffers. It
// returns nil when the guest has closed its direction.
func upload(raw syscall.RawConn, ep tcpip.Endpoint, queue *waiter.Queue) error {
	entry, readable := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventHUp | waiter.EventErr)
	queue.EventRegister(&entry)
	defer queue.EventUnregister(&entry)
	for {
		var terr tcpip.Error
		var dst socketWriter
		err := raw.Write(func(fd uintptr) bool {
			dst = socketWriter{fd: int(fd)}
			var res tcpip.ReadResult
			res, terr = ep.Read(&dst, tcpip.ReadOptions{})
			return res.Count > 0 || dst.err != unix.EAGAIN
		})
		switch {
		case err != nil:
			return err
		case dst.err != nil && dst.err != unix.EAGAIN:
			return dst.err
		}
		switch terr.(type) {
		case nil, *tcpip.ErrBadBuffer:
		case *tcpip.ErrWouldBlock:
			<-readable
		case *tcpip.ErrClosedForReceive:
			return nil
		default:
			return errGuest
		}
	}
}

// socketWriter writes to a socket without waiting; what the socket does not take stays
// with the caller.
type socketWriter struct {
	fd  int
	err error
}

func (s *socketWriter) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.SendmsgN(s.fd, p[done:], nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if err != nil {
			s.err = err
			return done, err
		}
		done += n
	}
	return done, nil
}
