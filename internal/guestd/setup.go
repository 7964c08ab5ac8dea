package guestd

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/ssh"

	"aivm.dev/aivm/internal/guestd/wire"
)

// The parts of a Setup.
type (
	// Setup makes a booted or resumed guest ready. Session.Setup fills what is empty of
	// MachineID, Time, Entropy and the host key; an UID of 0 makes no user.
	Setup = wire.SetupRequest
	// Mount is a folder in the guest.
	Mount = wire.Mount
	// Network configures the guest's only network card.
	Network = wire.Network
	// Limits hold for all commands together.
	Limits = wire.Limits
)

// The transports of a Mount.
const (
	Relay    = wire.Relay
	Virtiofs = wire.Virtiofs
)

const (
	setupLimit    = time.Minute
	prepareLimit  = 10 * time.Minute
	powerOffLimit = time.Minute
)

// A ConflictError says that a folder cannot be mounted at its path in the guest,
// because the guest has something there. Nothing was changed: Setup may be called
// again with another path.
type ConflictError struct {
	Path   string
	Reason string
}

func (e *ConflictError) Error() string { return e.Path + ": " + e.Reason }

// Setup makes the guest ready for commands: clock, entropy, names, keys, user,
// folders, network and limits, in one round trip. The error names the failing step.
func (s *Session) Setup(ctx context.Context, setup Setup) error {
	if setup.MachineID == "" {
		id := make([]byte, 16)
		rand.Read(id)
		setup.MachineID = hex.EncodeToString(id)
	}
	if setup.Entropy == nil {
		setup.Entropy = make([]byte, 64)
		rand.Read(setup.Entropy)
	}
	if setup.HostKey == "" {
		if err := newHostKey(&setup); err != nil {
			return fmt.Errorf("making a host key for the guest: %w", err)
		}
	}
	if setup.Time.IsZero() {
		setup.Time = time.Now()
	}
	m, err := s.call(ctx, setupLimit, wire.Setup, setup, nil)
	if err != nil {
		return fmt.Errorf("setting the guest up: %w", err)
	}
	if m.Conflict != "" {
		for _, mount := range setup.Mounts {
			for _, path := range append([]string{mount.Path}, mount.Also...) {
				if path == m.Conflict {
					return &ConflictError{Path: path, Reason: m.Error}
				}
			}
		}
	}
	return failure("setting the guest up", m)
}

// newHostKey makes the guest's SSH host key.
func newHostKey(setup *Setup) error {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		return err
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		return err
	}
	setup.HostKey, setup.HostKeyPub = string(pem.EncodeToMemory(block)), string(ssh.MarshalAuthorizedKey(key))
	return nil
}

// failure is the error in a reply.
func failure(doing string, m wire.ReplyMessage) error {
	if m.Error == "" {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, errors.New(m.Error))
}

// Prepare makes the guest ready to be saved: it ends all commands, removes what
// identifies this guest, writes the disk and empties the caches; then it runs each
// command of warm as root, so that the saved memory holds the files they read. It
// ends the session; the agent waits for another connection to the same port.
func (s *Session) Prepare(ctx context.Context, warm ...[]string) error {
	m, err := s.call(ctx, prepareLimit, wire.Prepare, wire.PrepareRequest{Warm: warm}, nil)
	if err == nil {
		err = failure("preparing the guest to be saved", m)
	}
	s.Close()
	return err
}

// Flush ends all commands and writes what they wrote to folders of the host. It does
// not write the guest's own disk.
func (s *Session) Flush(ctx context.Context) error {
	m, err := s.call(ctx, powerOffLimit, wire.Flush, struct{}{}, nil)
	if err != nil {
		return fmt.Errorf("writing the folders: %w", err)
	}
	return failure("writing the folders", m)
}

// PowerOff ends all commands, writes everything, unmounts, and powers the VM off. It
// ends the session.
func (s *Session) PowerOff(ctx context.Context) error {
	m, err := s.call(ctx, powerOffLimit, wire.PowerOff, struct{}{}, nil)
	switch {
	case errors.Is(err, ErrGone): // it was quicker than its reply
		err = nil
	case err == nil:
		err = failure("powering the VM off", m)
	}
	s.Close()
	return err
}
