package guest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// conn implements Conn.
type conn struct {
	addr   string
	client *ssh.Client
	raw    *monitoredConn
	bypass atomic.Bool // send startupEnv with each command

	gone    chan struct{} // closed when the transport has ended
	closing chan struct{} // closed by Close and kill
	once    sync.Once
	workers sync.WaitGroup

	mu  sync.Mutex
	why error // why kill ended the connection, nil if it did not
}

func newConn(sc ssh.Conn, chans <-chan ssh.NewChannel, reqs <-chan *ssh.Request, raw *monitoredConn, addr string) *conn {
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

// Close implements Conn. It does not wait for the guest to confirm.
func (c *conn) Close() error {
	c.kill(net.ErrClosed)
	c.workers.Wait()
	return nil
}

// kill ends the connection with the reason why. Closing the TCP connection ends every call that waits
// for the guest, also one that is blocked in sending.
func (c *conn) kill(why error) {
	c.once.Do(func() {
		c.mu.Lock()
		c.why = why
		c.mu.Unlock()
		close(c.closing)
		_ = c.raw.Close()
	})
}

// lostError returns an error with the reason why the connection ended, nil if it still exists. It
// waits up to grace for the end: when a channel closes, the end of the transport may be known only a
// moment later.
func (c *conn) lostError(grace time.Duration) error {
	timer := time.NewTimer(grace)
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

var errSilent = errors.New("the guest stopped responding")

// keepalive sends a keepalive request every interval, and ends the connection if no byte arrives for
// limit. Any byte counts: on a busy connection the reply can be delayed behind data.
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
				received := time.Unix(0, c.raw.lastRead.Load())
				if received.Before(asked) {
					received = asked
				}
				if time.Since(received) >= limit {
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
	if lost := c.lostError(0); lost != nil {
		err = lost
	}
	return nil, fmt.Errorf("connecting to %s inside the guest: %w", addr, err)
}
