package agent

import (
	"bufio"
	"errors"
	"io"
	"sync"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/guestd/wire"
)

// A port is the control port: a byte stream to the host. Its descriptor is blocking.
type port struct {
	fd      int
	virtual bool // a virtio port, to which hosts come and go

	mu  sync.Mutex // of writing
	err error      // why it can no longer be written
}

// Read reads from the port; no host, or one that has closed its end, is io.EOF.
func (p *port) Read(b []byte) (int, error) {
	for {
		n, err := unix.Read(p.fd, b)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// send writes a frame, which is one piece for other senders.
func (p *port) send(frame []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(frame) > 0 && p.err == nil {
		n, err := unix.Write(p.fd, frame)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			p.err = err
			break
		}
		frame = frame[n:]
	}
	return p.err
}

// accept waits for the greeting of a host, answers it, and returns what follows it.
//
// A port without a host is always at its end for read and poll. So the wait is for a
// change: edge-triggered.
func (p *port) accept() (*bufio.Reader, error) {
	wait, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer unix.Close(wait)
	change := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(p.fd)}
	if err := unix.EpollCtl(wait, unix.EPOLL_CTL_ADD, p.fd, &change); err != nil {
		return nil, err
	}
	r := bufio.NewReaderSize(p, 64<<10)
	var scan wire.Scanner
	for {
		b, err := r.ReadByte()
		if errors.Is(err, io.EOF) && p.virtual {
			if _, err := unix.EpollWait(wait, make([]unix.EpollEvent, 1), -1); err != nil && !errors.Is(err, unix.EINTR) {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		if nonce, complete := scan.Byte(b); complete {
			p.mu.Lock()
			p.err = nil
			p.mu.Unlock()
			return r, p.send(wire.Answer(nonce))
		}
	}
}
