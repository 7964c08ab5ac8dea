// Package virt talks to libvirt over its RPC protocol; it is the only package that imports
// go-libvirt.
//
// It holds the connection (a context bounds dialing and every call) and translates between
// libvirt's objects and plain structs. It does not decide what should exist, does not
// build domain and network XML (provision/domain and provision/network do), and changes
// only objects it is given by name.
//
// Invariants: ErrNotFound means that an object does not exist, and no other error does. A
// cancelled context ends a hanging call by closing the connection, since go-libvirt's calls
// have no deadline; the Conn cannot be used after that. Before, the daemon gets a moment to
// finish (cancelGrace): it may execute the request after all, and should have done so by
// the time the caller returns.
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

// Errors that callers branch on.
var (
	// ErrNotFound means that libvirt reported that the object does not exist.
	ErrNotFound = errors.New("not found")
	// ErrDenied means that the daemon runs but refuses this user.
	ErrDenied = errors.New("libvirt refuses this user")
	// ErrNoDaemon means that nothing answers on libvirt's socket.
	ErrNoDaemon = errors.New("libvirt is not running")
	// ErrExists means that a volume with that name exists.
	ErrExists = errors.New("exists already")
	// ErrBusy means that libvirt refuses while another operation runs in the same storage
	// pool. It may succeed later.
	ErrBusy = errors.New("libvirt is busy with the storage pool")
)

// Conn is one connection to libvirt. Calls are safe from several goroutines.
type Conn struct {
	l   *libvirt.Libvirt
	nc  net.Conn
	uri URI
}

// Dial connects to the first of u's sockets that exists. The error is ErrNoDaemon if
// nothing listens there, and ErrDenied if the socket's mode or polkit refuses this user.
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

// openLimit is how long a daemon may take to answer the first call. A daemon that hangs
// still accepts connections until its backlog is full.
const openLimit = 8 * time.Second

// Adopt opens the hypervisor over nc, an existing connection to u. The privileged helper
// passes one for users outside group libvirt. Adopt takes ownership of nc.
func Adopt(ctx context.Context, nc net.Conn, u URI) (*Conn, error) {
	c := &Conn{l: libvirt.NewWithDialer(dialers.NewAlreadyConnected(newWire(nc))), nc: nc, uri: u}
	octx, cancel := context.WithTimeout(ctx, openLimit)
	defer cancel()
	err := c.do(octx, func() error { return c.l.ConnectToURI(SystemURI) })
	if err != nil {
		_ = nc.Close()
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			return nil, fmt.Errorf("libvirt accepts connections but does not answer (waited %s)", openLimit)
		}
		// Failed authentication has many error codes (no polkit, no D-Bus, no agent). For
		// a user other than root any libvirt error here counts as a refusal; if there is
		// another cause, root's connection shows it.
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
	// Disconnect waits for an answer, which a hanging daemon never sends.
	_ = c.nc.SetDeadline(time.Now().Add(2 * time.Second))
	_ = c.l.Disconnect()
	return c.nc.Close()
}

// cancelGrace is how long a call may continue after its context has ended. A request
// already sent cannot be withdrawn; a working daemon answers within this time, so that the
// next run observes its effect.
const cancelGrace = 2 * time.Second

// do runs one call. cancelGrace after ctx ends it closes the connection, which makes
// pending calls of go-libvirt return.
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

// translate turns libvirt's "no such object" codes into ErrNotFound, and a lost connection
// into ErrNoDaemon. go-libvirt's IsNotFound only handles domains.
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
