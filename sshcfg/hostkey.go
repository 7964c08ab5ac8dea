package sshcfg

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/crypto/ssh"

	"aivm.dev/aivm/internal/ui"
)

// HostKey is a guest's ed25519 host key. aivm makes it, cloud-init installs it in the
// guest, and ssh accepts no other key (no trust on first use).
type HostKey struct {
	PrivatePEM []byte // OpenSSH format
	Public     ssh.PublicKey
}

// NewHostKey generates a host key.
func NewHostKey() (HostKey, error) {
	pemBytes, pub, err := newKey("aivm host key")
	return HostKey{PrivatePEM: pemBytes, Public: pub}, err
}

// AuthorizedKey returns the public key as one line, without a line feed.
func (k HostKey) AuthorizedKey() string { return authorizedLine(k.Public) }

func (l Layout) hostKeyPath(vm string) string {
	return filepath.Join(l.VMDir(vm), "host_ed25519")
}

// KnownHostsPath returns the path of the file with the one host key accepted for this VM.
func (l Layout) KnownHostsPath(vm string) string {
	return filepath.Join(l.VMDir(vm), "known_hosts")
}

// LoadHostKey reads the pinned host key of a VM. The error wraps fs.ErrNotExist if there
// is none.
func (l Layout) LoadHostKey(vm string) (HostKey, error) {
	if err := checkVM(vm); err != nil {
		return HostKey{}, err
	}
	path := l.hostKeyPath(vm)
	data, err := os.ReadFile(path)
	if err != nil {
		return HostKey{}, ui.Failed("reading the host key of %q: %w", vm, err)
	}
	s, err := ssh.ParsePrivateKey(data)
	if err != nil {
		return HostKey{}, ui.Failed("reading the host key of %q in %s: %w", vm, path, err)
	}
	if s.PublicKey().Type() != ssh.KeyAlgoED25519 {
		return HostKey{}, ui.Failed("the host key of %q in %s is of type %s, not %s", vm, path, s.PublicKey().Type(), ssh.KeyAlgoED25519)
	}
	return HostKey{PrivatePEM: data, Public: s.PublicKey()}, nil
}

// SaveHostKey writes the host key of a VM. Saving the same key again is not an error. A
// different key is refused, with an error that wraps fs.ErrExist.
func (l Layout) SaveHostKey(vm string, k HostKey) error {
	if err := checkVM(vm); err != nil {
		return err
	}
	err := createOwn(l.hostKeyPath(vm), k.PrivatePEM, 0o600)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	if old, rerr := os.ReadFile(l.hostKeyPath(vm)); rerr == nil && bytes.Equal(old, k.PrivatePEM) {
		return nil
	}
	return ui.Refused("VM %q already has another host key, which is not replaced: %w", vm, err)
}

// WriteKnownHosts writes the known_hosts file of a VM: one line that binds the stanza's
// HostKeyAlias to the pinned key. A file that already has this content is not written.
func (l Layout) WriteKnownHosts(vm, alias string, pub ssh.PublicKey) error {
	if err := checkVM(vm); err != nil {
		return err
	}
	if err := checkHostKeyAlias(alias); err != nil {
		return err
	}
	line := fmt.Appendf(nil, "%s %s\n", alias, authorizedLine(pub))
	path := l.KnownHostsPath(vm)
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, line) {
		return nil
	}
	return replaceOwn(path, line)
}

// checkHostKeyAlias refuses characters with a meaning in known_hosts: wildcards, negation,
// lists, hashes, markers, comments.
func checkHostKeyAlias(s string) error {
	if s == "" || len(s) > 255 {
		return ui.Refused("host key alias %q is empty or too long", s)
	}
	for i, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_':
		case (c == '-' || c == '.') && i > 0:
		default:
			return ui.Refused("host key alias %q contains a character that is not allowed", s)
		}
	}
	return nil
}

// newKey generates an ed25519 key pair: the private key in OpenSSH's format, and the public
// key.
func newKey(comment string) ([]byte, ssh.PublicKey, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, ui.Failed("generating a key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(private, comment)
	if err != nil {
		return nil, nil, ui.Failed("encoding a key: %w", err)
	}
	pub, err := ssh.NewPublicKey(public)
	if err != nil {
		return nil, nil, ui.Failed("encoding a key: %w", err)
	}
	return pem.EncodeToMemory(block), pub, nil
}

func authorizedLine(pub ssh.PublicKey) string {
	return string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(pub)))
}
