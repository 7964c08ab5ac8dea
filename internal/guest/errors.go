package guest

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"aivm.dev/aivm/internal/ui"
)

// What a caller branches on, with errors.Is. The typed errors below carry the
// details.
var (
	// ErrUnreachable: no SSH server answers; the VM is off or booting.
	ErrUnreachable = errors.New("no SSH server answers")
	// ErrAuth: the guest is the right one, the login was refused or cut off.
	ErrAuth = errors.New("login refused")
	// ErrHostKey: somebody else answers at the guest's address.
	ErrHostKey = errors.New("host key differs from the pinned one")
	// ErrLost: the connection broke after it had been made.
	ErrLost = errors.New("connection to the guest lost")
	// ErrNoStatus: a command ended and its exit status never came.
	ErrNoStatus = errors.New("the guest did not say how the command ended")
	// ErrTooLong: an answer exceeded its bound.
	ErrTooLong = errors.New("answer too long")
)

// IsUnreachable reports whether nothing answered as an SSH server, as opposed
// to a refused login or a wrong host key.
func IsUnreachable(err error) bool { return errors.Is(err, ErrUnreachable) }

// Phase is how far a connection came. It is shown to people.
type Phase = string

// The phases, in order.
const (
	PhaseNoAnswer   Phase = "no answer"
	PhasePortClosed Phase = "port closed"
	PhaseNoBanner   Phase = "port open, no SSH banner yet"
	PhaseBanner     Phase = "SSH banner seen, logging in"
	PhaseRefused    Phase = "banner but login refused"
)

// UnreachableError is a connection that came no further than Phase.
type UnreachableError struct {
	Addr  string
	Phase Phase
	Err   error
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("connecting to %s: %s: %v", e.Addr, e.Phase, e.Err)
}

// Unwrap returns the cause.
func (e *UnreachableError) Unwrap() error { return e.Err }

// Is implements errors.Is for ErrUnreachable.
func (e *UnreachableError) Is(err error) bool { return err == ErrUnreachable }

// HostKeyError is a server at the guest's address that does not hold the
// pinned host key. Waiting does not help.
type HostKeyError struct {
	Addr string
	Want ssh.PublicKey
	Got  ssh.PublicKey // nil: it has no key of the pinned type
}

func (e *HostKeyError) Error() string {
	got := "no key of this type"
	if e.Got != nil {
		got = fingerprint(e.Got)
	}
	return fmt.Sprintf("host key of %s differs from the pinned one: want %s, got %s", e.Addr, fingerprint(e.Want), got)
}

// Is implements errors.Is for ErrHostKey.
func (e *HostKeyError) Is(err error) bool { return err == ErrHostKey }

// AuthError is a login that the right guest refused or broke off.
type AuthError struct {
	Addr, User string
	Server     string // its banner, "SSH-2.0-OpenSSH_9.2p1 Debian-2"
	Err        error
}

func (e *AuthError) Error() string {
	return fmt.Sprintf("logging in as %s at %s: %s", e.User, e.Addr, ui.Clean(e.Err.Error()))
}

// Is implements errors.Is for ErrAuth.
func (e *AuthError) Is(err error) bool { return err == ErrAuth }

// Unwrap returns the cause.
func (e *AuthError) Unwrap() error { return e.Err }

// WaitError is a wait that reached its limit: how far it came and why the last
// try failed.
type WaitError struct {
	Addr   string
	Last   Phase
	Waited time.Duration
	Err    error // the last try's error
}

func (e *WaitError) Error() string {
	return fmt.Sprintf("no login at %s after %s, last seen: %s%s",
		e.Addr, e.Waited.Round(time.Second), e.Last, suffixed(ui.Clean(fmt.Sprint(e.Err))))
}

// Unwrap returns the last try's error, so ErrUnreachable and ErrAuth apply.
func (e *WaitError) Unwrap() error { return e.Err }

// ProbeError names the pieces of a probe that ended with a status other than 0.
type ProbeError struct {
	Exit   map[string]int // by name
	Names  []string       // in the order they ran
	Stderr string         // the last words of all pieces together, not cleaned
}

func (e *ProbeError) Error() string {
	parts := make([]string, len(e.Names))
	for i, n := range e.Names {
		parts[i] = fmt.Sprintf("%s (status %d)", n, e.Exit[n])
	}
	return "probing the guest: failed: " + strings.Join(parts, ", ") + lastWords(e.Stderr)
}

// CommandError is a program that ended with a status other than 0.
type CommandError struct {
	Argv   []string
	Exit   int
	Stderr string // its last words, not cleaned
}

func (e *CommandError) Error() string {
	return fmt.Sprintf("in the guest: %s: status %d%s", quoteArgs(e.Argv), e.Exit, lastWords(e.Stderr))
}

func suffixed(s string) string {
	if s == "" {
		return ""
	}
	return ": " + s
}

func lastWords(stderr string) string { return suffixed(ui.Clean(strings.TrimSpace(stderr))) }

func quoteArgs(argv []string) string { return ui.CleanTo(strings.Join(argv, " "), 200) }

func fingerprint(k ssh.PublicKey) string { return k.Type() + " " + ssh.FingerprintSHA256(k) }

// A StuckError is a probe that was given up, or lost its connection, while one
// of its pieces ran. What the pieces before it said is returned beside it.
type StuckError struct {
	At  string // the piece
	Err error
}

func (e *StuckError) Error() string { return fmt.Sprintf("probing the guest, at %q: %v", e.At, e.Err) }
func (e *StuckError) Unwrap() error { return e.Err }
