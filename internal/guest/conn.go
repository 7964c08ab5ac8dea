package guest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// conn implements Conn.
type conn struct {
	addr   string
	client *ssh.Client
	raw    *watched

	gone    chan struct{} // closed when the transport has ended
	closing chan struct{} // closed by Close and kill
	once    sync.Once
	workers sync.WaitGroup

	mu  sync.Mutex
	why error // why we ended the connection, nil if we did not
}

func newConn(sc ssh.Conn, chans <-chan ssh.NewChannel, reqs <-chan *ssh.Request, raw *watched, addr string) *conn {
	c := &conn{
		addr: addr, client: ssh.NewClient(sc, chans, reqs), raw: raw,
		gone: make(chan struct{}), closing: make(chan struct{}),
	}
	c.workers.Go(func() {
		_ = c.client.Wait()
		close(c.gone)
	})
	c.workers.Go(func() { c.keepalive(keepaliveEvery, silenceLimit) })
	return c
}

// Close implements Conn. It does not wait for the guest to agree.
func (c *conn) Close() error {
	c.kill(net.ErrClosed)
	c.workers.Wait()
	return nil
}

// kill ends the connection for a reason. Closing the TCP connection frees
// every call that waits for the guest, also one that waits to send.
func (c *conn) kill(why error) {
	c.once.Do(func() {
		c.mu.Lock()
		c.why = why
		c.mu.Unlock()
		close(c.closing)
		_ = c.raw.Close()
	})
}

// lost returns an error that says why the connection is no more, nil if it
// stands. A call whose channel was closed may ask a moment before the
// transport's end is known, hence the patience.
func (c *conn) lost(patience time.Duration) error {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-c.gone:
	case <-timer.C:
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.why != nil {
		return fmt.Errorf("%w (%s): %w", ErrLost, c.addr, c.why)
	}
	return fmt.Errorf("%w (%s)", ErrLost, c.addr)
}

var errSilent = errors.New("the guest went silent")

// keepalive asks for a sign of life every interval. Any byte counts as one: on
// a busy line the answer itself can be stuck behind data.
func (c *conn) keepalive(interval, limit time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-c.gone:
			return
		case <-c.closing:
			return
		case <-tick.C:
		}
		answered := make(chan struct{})
		c.workers.Go(func() {
			defer close(answered)
			_, _, _ = c.client.SendRequest("keepalive@openssh.com", true, nil)
		})
		asked := time.Now()
		for waiting := true; waiting; {
			timer := time.NewTimer(interval)
			select {
			case <-answered:
				waiting = false
			case <-c.gone:
				waiting = false
			case <-c.closing:
				waiting = false
			case <-timer.C:
				heard := time.Unix(0, c.raw.lastRead.Load())
				if heard.Before(asked) {
					heard = asked
				}
				if time.Since(heard) >= limit {
					c.kill(errSilent)
				}
			}
			timer.Stop()
		}
	}
}

// Dial implements Conn.
func (c *conn) Dial(ctx context.Context, addr string) (net.Conn, error) {
	network := "tcp"
	if strings.HasPrefix(addr, "/") {
		network = "unix"
	}
	nc, err := c.client.DialContext(ctx, network, addr)
	if err == nil {
		return nc, nil
	}
	if lost := c.lost(0); lost != nil {
		err = lost
	}
	return nil, fmt.Errorf("connecting to %s inside the guest: %w", addr, err)
}
