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
	r       *bufio.Reader

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

func newPort(fd int, virtual bool) *port {
	p := &port{fd: fd, virtual: virtual}
	p.r = bufio.NewReaderSize(p, 64<<10)
	return p
}

// accept waits for the greeting of a host and answers it.
//
// A port without a host is always at its end for read and poll. So the wait is for a
// change: edge-triggered.
func (p *port) accept() error {
	wait, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(wait)
	change := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(p.fd)}
	if err := unix.EpollCtl(wait, unix.EPOLL_CTL_ADD, p.fd, &change); err != nil {
		return err
	}
	var scan wire.Scanner
	for {
		b, err := p.r.ReadByte()
		if errors.Is(err, io.EOF) && p.virtual {
			if _, err := unix.EpollWait(wait, make([]unix.EpollEvent, 1), -1); err != nil && !errors.Is(err, unix.EINTR) {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		if nonce, complete := scan.Byte(b); complete {
			p.mu.Lock()
			p.err = nil
			p.mu.Unlock()
			return p.send(wire.Answer(nonce))
		}
	}
}

// greeted reports whether what comes next is another greeting: the host has closed
// its connection and opened one so soon that the port's end was not seen.
func (p *port) greeted() (bool, error) {
	b, err := p.r.Peek(len(wire.HostMagic))
	return string(b) == wire.HostMagic, err
}
