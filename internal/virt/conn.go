// Package virt speaks libvirt's RPC protocol; it is the only importer of
// go-libvirt.
//
// It owns the connection (dial with a context, every call bounded by one) and
// the translation between libvirt's objects and plain structs. It never
// decides what should exist, never builds XML (provision/domain and
// provision/network do) and never changes an object it was not handed by name.
//
// Invariants: an error that means "does not exist" is ErrNotFound and nothing
// else is; a cancelled context ends a hanging call by closing the connection
// (go-libvirt's calls take no deadline), after which the Conn is dead, but not
// before the daemon had a moment to finish: what was asked for may happen
// after all, and must have happened when the caller has returned.
package virt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"
)

// Errors a caller branches on.
var (
	// ErrNotFound: libvirt answered that the object does not exist.
	ErrNotFound = errors.New("not found")
	// ErrDenied: the daemon runs but refuses this user.
	ErrDenied = errors.New("libvirt refuses this user")
	// ErrNoDaemon: nothing answers on libvirt's socket.
	ErrNoDaemon = errors.New("libvirt is not running")
	// ErrExists: a volume of that name is there already.
	ErrExists = errors.New("exists already")
	// ErrBusy: libvirt refuses for as long as something else goes on in the
	// same storage pool; later it will do it.
	ErrBusy = errors.New("libvirt is busy with the storage pool")
)

// Conn is one connection to libvirt. Calls are safe from several goroutines.
type Conn struct {
	l   *libvirt.Libvirt
	nc  net.Conn
	uri URI
}

// Dial connects to the first of u's sockets that exists. It returns ErrNoDaemon
// when nothing listens and ErrDenied when the socket or polkit refuses this
// user.
func Dial(ctx context.Context, u URI) (*Conn, error) {
	var last error = ErrNoDaemon
	if u.Own() {
		last = fmt.Errorf("%w: nothing listens at %s", ErrNoDaemon, u.Socket())
	}
	for _, p := range u.sockets() {
		nc, err := (&net.Dialer{}).DialContext(ctx, "unix", p)
		switch {
		case err == nil:
			return Adopt(ctx, nc, u)
		case errors.Is(err, fs.ErrPermission):
			last = fmt.Errorf("%w: %s", ErrDenied, p)
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		default:
			last = fmt.Errorf("connecting to %s: %w", p, err)
		}
	}
	return nil, last
}

// openLimit is how long a daemon may take to say hello: a stuck one takes
// connections for as long as its backlog lasts.
const openLimit = 8 * time.Second

// Adopt opens the hypervisor over a connection to u that was made elsewhere (the
// root helper passes one for users outside group libvirt). It owns nc.
func Adopt(ctx context.Context, nc net.Conn, u URI) (*Conn, error) {
	c := &Conn{l: libvirt.NewWithDialer(dialers.NewAlreadyConnected(newWire(nc))), nc: nc, uri: u}
	octx, cancel := context.WithTimeout(ctx, openLimit)
	defer cancel()
	err := c.do(octx, func() error { return c.l.ConnectToURI(SystemURI) })
	if err != nil {
		_ = nc.Close()
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			return nil, fmt.Errorf("libvirt takes connections but does not answer (%s)", openLimit)
		}
		// Authentication fails in many ways and codes (no polkit, no bus, no
		// agent to ask). For a plain user whatever libvirt answers here is a
		// refusal: root's connection tells whether it is more than that.
		var le libvirt.Error
		if errors.As(err, &le) && (os.Geteuid() != 0 || le.Code == uint32(libvirt.ErrAuthFailed)) {
			return nil, fmt.Errorf("%w: %s", ErrDenied, le.Message)
		}
		return nil, fmt.Errorf("opening %s: %w", u, err)
	}
	return c, nil
}

// Close ends the connection. Calls in flight return an error.
func (c *Conn) Close() error {
	if c == nil {
		return nil
	}
	// The polite goodbye waits for an answer a dead daemon never gives.
	_ = c.nc.SetDeadline(time.Now().Add(2 * time.Second))
	_ = c.l.Disconnect()
	return c.nc.Close()
}

// cancelGrace is how long a call goes on when its context has ended. A request
// that is on its way cannot be taken back: a daemon that lives answers within
// this, and then the next run sees what really was done.
const cancelGrace = 2 * time.Second

// do runs one call and closes the connection when ctx ended a while ago:
// pending calls then return at once (LIBRARIES.md §1).
func (c *Conn) do(ctx context.Context, f func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-done:
		case <-time.After(cancelGrace):
			_ = c.nc.Close()
		}
	})
	defer stop()
	err := f()
	close(done)
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return translate(err)
}

// translate turns libvirt's "no such object" codes into ErrNotFound, and a
// lost connection into ErrNoDaemon. libvirt.IsNotFound knows domains only.
func translate(err error) error {
	if err == nil {
		return nil
	}
	var le libvirt.Error
	if errors.As(err, &le) {
		switch libvirt.ErrorNumber(le.Code) {
		case libvirt.ErrNoDomain, libvirt.ErrNoNetwork, libvirt.ErrNoStoragePool, libvirt.ErrNoStorageVol,
			libvirt.ErrNoDomainMetadata, libvirt.ErrNoDomainSnapshot:
			return fmt.Errorf("%w: %s", ErrNotFound, le.Message)
		}
		return err
	}
	if errors.Is(err, libvirt.ErrInterrupted) || errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EPIPE) {
		return fmt.Errorf("%w: the connection to it was lost", ErrNoDaemon)
	}
	return err
}
