// Package guest provides the SSH connection to a guest: it waits until the guest accepts a login,
// probes it, runs commands, unpacks files and opens connections through it.
//
// It is only the transport. It never decides what to run, never reads the user's ssh configuration,
// and changes nothing on the host.
//
// Invariants: the host key is pinned, and there is no login with another one; all output of the guest
// is untrusted, so every answer is bounded and every call ends with its context; goroutines of a call
// end with it, or at the latest with the connection, unless a reader or writer of the caller blocks.
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

// Target is the address of a guest and the credentials for it.
type Target struct {
	Addr string // "ip:port" of the server, also its name in messages
	// Dial opens a connection to the server in another way than TCP to Addr, for example over vsock
	// or a stream of another program; nil means TCP. It may be called more than once.
	Dial    func(ctx context.Context) (net.Conn, error)
	User    string
	HostKey ssh.PublicKey // the only accepted host key
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
		return errors.New("no user is given for the guest at " + t.Addr)
	}
	return nil
}

// Probe is one named part of the script that Conn.Probe sends. It is a script for a POSIX sh, which
// runs in a subshell with Stdin (or nothing) as its input and LC_ALL=C.UTF-8. It must not leave a
// process running that keeps stdout open, and must end with a status other than 0 only if it could
// not get its answer.
type Probe struct {
	Name   string
	Script string
	Stdin  []byte
}

// Cmd is a program to run in the guest. Argv is quoted by this package and starts with a program, not
// a shell builtin. A nil Stdin is empty; output to a nil Stdout or Stderr is discarded.
type Cmd struct {
	Argv           []string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Spare means: fail at once if the server refuses a session, instead of waiting for one that
	// other commands may need.
	Spare bool
}

// Conn is a logged-in connection to a guest. Any number of calls may run one after the other or at
// the same time.
type Conn interface {
	// Probe runs all parts in one exec and returns the output of each. If parts fail, it returns a
	// *ProbeError that names them together with the output of the others. If it ends while a part
	// runs, it returns a *StuckError together with the output of the earlier parts. If the login
	// shell does not run the script, it returns a *StartupError. With any other error there is no
	// output.
	Probe(ctx context.Context, ps []Probe) (map[string][]byte, error)
	// Run runs a program and returns its exit status, 128+n for signal n. err is nil whatever the
	// status is; it is set if there is no status (ErrNoStatus, ErrLost), if a stream of the caller
	// failed, or if ctx ended, in which case the program is sent SIGTERM.
	Run(ctx context.Context, c Cmd) (exit int, err error)
	// PutTar unpacks a tar stream below dir, which is created if missing. A relative dir is below the
	// user's home. If the stream fails, PutTar returns an error, but files before the failure may
	// have been unpacked.
	PutTar(ctx context.Context, dir string, tar io.Reader) error
	// Dial connects from inside the guest to a TCP address, or to a unix socket if addr is an
	// absolute path. The returned connection does not support deadlines.
	Dial(ctx context.Context, addr string) (net.Conn, error)
	// Close ends the connection and everything running over it.
	Close() error
}
