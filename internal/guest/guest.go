// Package guest is the one SSH connection to a guest: it waits for it, probes,
// runs commands, puts files and dials through it.
//
// It owns the transport only. It never decides what to run, never reads the
// user's ssh configuration, and never touches the host.
//
// Invariants: the host key is pinned, a login happens with it or not at all;
// everything that comes back is hostile, so every answer is bounded and every
// call ends with its context; what a call started ends with it, at the latest
// with the connection, unless a reader or writer of the caller holds it up.
package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"

	"golang.org/x/crypto/ssh"
)

// Target says where a guest is and who we are there.
type Target struct {
	Addr string // "ip:port": where the server is, and its name in messages
	// Dial opens a connection to the server in another way than TCP to Addr, for
	// instance over vsock or a stream that another program hands on; nil: TCP. It
	// may be called more than once.
	Dial    func(ctx context.Context) (net.Conn, error)
	User    string
	HostKey ssh.PublicKey // the only host key that is accepted
	Auth    []ssh.AuthMethod
}

func (t Target) check() error {
	if _, err := netip.ParseAddrPort(t.Addr); err != nil {
		return fmt.Errorf("address of the guest: %w", err)
	}
	if t.HostKey == nil {
		return errors.New("no host key is pinned for the guest at " + t.Addr)
	}
	if t.User == "" {
		return errors.New("no user is named for the guest at " + t.Addr)
	}
	return nil
}

// Probe is one named piece of the script Conn.Probe sends. The script is for
// a POSIX sh; it runs in a subshell with Stdin (or nothing) on its stdin and
// LC_ALL=C.UTF-8, must not leave a process behind that holds stdout, and ends
// with status 0 unless it could not find out what it was to find out.
type Probe struct {
	Name   string
	Script string
	Stdin  []byte
}

// Cmd is a program to run in the guest. Argv is quoted by this package and
// names a program, not a shell builtin. Nil streams are empty or thrown away.
type Cmd struct {
	Argv           []string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Spare: it is run only if the server has a session to spare at once, and
	// does not wait for one that others need.
	Spare bool
}

// Conn is a connection to a guest, logged in. Calls may follow each other in
// any number; several at once are safe too.
type Conn interface {
	// Probe runs all pieces in one exec and returns what each wrote to stdout.
	// A piece that failed is missing in the map and named in a *ProbeError,
	// which comes together with the answers of the others. With any other
	// error there are no answers.
	Probe(ctx context.Context, ps []Probe) (map[string][]byte, error)
	// Run runs a program and returns its exit status, 128+n for signal n. err
	// is nil whatever the status is; it is set when there is no status
	// (ErrNoStatus, ErrLost), when a stream of the caller failed, or when ctx
	// ended, in which case the program is sent SIGTERM.
	Run(ctx context.Context, c Cmd) (exit int, err error)
	// PutTar unpacks a tar stream below dir, which is made if missing. A
	// relative dir starts at the user's home. A failure of the stream is an
	// error, but what came before it may have been unpacked.
	PutTar(ctx context.Context, dir string, tar io.Reader) error
	// Dial connects from inside the guest to a TCP address there, or to a
	// socket if addr is an absolute path. Deadlines are not supported by the
	// connection that is returned.
	Dial(ctx context.Context, addr string) (net.Conn, error)
	// Close ends the connection and everything running over it.
	Close() error
}
