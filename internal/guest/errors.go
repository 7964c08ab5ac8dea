package guest

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"aivm.dev/aivm/internal/ui"
)

// Errors for errors.Is. The error types below have the details.
var (
	// ErrUnreachable reports that no SSH server answers; the VM is off or booting.
	ErrUnreachable = errors.New("no SSH server answers")
	// ErrAuth reports that the host key is correct, but the login was refused or broken off.
	ErrAuth = errors.New("login refused")
	// ErrHostKey reports that another server answers at the guest's address.
	ErrHostKey = errors.New("host key differs from the pinned one")
	// ErrLost reports that an established connection broke.
	ErrLost = errors.New("connection to the guest lost")
	// ErrNoStatus reports that a command ended without an exit status.
	ErrNoStatus = errors.New("the guest reported no exit status of the command")
	// ErrTooLong reports that an answer exceeded its limit.
	ErrTooLong = errors.New("answer too long")
)

// IsUnreachable reports whether no SSH server answered, as opposed to a refused login or a wrong host
// key.
func IsUnreachable(err error) bool { return errors.Is(err, ErrUnreachable) }

// Phase is how far a connection got, as shown to the user.
type Phase = string

// The phases, in order.
const (
	PhaseNoAnswer   Phase = "no answer"
	PhasePortClosed Phase = "SSH port closed"
	PhaseNoBanner   Phase = "SSH port open, no banner yet"
	PhaseBanner     Phase = "SSH is up, logging in"
	PhaseRefused    Phase = "SSH is up, login not accepted yet (still booting)"
)

// UnreachableError reports a connection that got no further than Phase.
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

// HostKeyError reports that the server at the guest's address does not have the pinned host key.
// Waiting does not help.
type HostKeyError struct {
	Addr string
	Want ssh.PublicKey
	Got  ssh.PublicKey // nil: the server has no key of the pinned type
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

// AuthError reports a login that was refused or broken off by a guest with the pinned host key.
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

// WaitError reports a wait that reached its limit: how far it got and why the last try failed.
type WaitError struct {
	Addr   string
	Last   Phase
	Waited time.Duration
	Err    error // of the last try
}

func (e *WaitError) Error() string {
	return fmt.Sprintf("no login at %s after %s, last state: %s%s",
		e.Addr, e.Waited.Round(time.Second), e.Last, suffixed(ui.Clean(fmt.Sprint(e.Err))))
}

// Unwrap returns the error of the last try, so that errors.Is finds ErrUnreachable and ErrAuth.
func (e *WaitError) Unwrap() error { return e.Err }

// ProbeError reports the parts of a probe that ended with a status other than 0.
type ProbeError struct {
	Exit   map[string]int // the status, by name of the part
	Names  []string       // in the order they ran
	Stderr string         // the end of stderr of all parts together, not cleaned
}

func (e *ProbeError) Error() string {
	parts := make([]string, len(e.Names))
	for i, n := range e.Names {
		parts[i] = fmt.Sprintf("%s (status %d)", n, e.Exit[n])
	}
	return "probing the guest: failed: " + strings.Join(parts, ", ") + lastWords(e.Stderr)
}

// CommandError reports a program that ended with a status other than 0.
type CommandError struct {
	Argv   []string
	Exit   int
	Stderr string // the end of its stderr, not cleaned
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

// A StuckError reports a probe that was cancelled, or lost its connection, while one of its parts
// ran. The output of the earlier parts is returned with it.
type StuckError struct {
	At  string // the name of the part
	Err error
}

func (e *StuckError) Error() string { return fmt.Sprintf("probing the guest, at %q: %v", e.At, e.Err) }
func (e *StuckError) Unwrap() error { return e.Err }
