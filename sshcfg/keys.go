package sshcfg

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"al.essio.dev/pkg/shellescape"
	"golang.org/x/crypto/ssh"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
)

// Identity is a client key that a guest accepts.
type Identity struct {
	Path          string // the private key file, or a .pub file whose private key is in the agent
	Public        ssh.PublicKey
	Comment       string
	AivmKey       bool // made by aivm, not by the user
	PublicMissing bool // it is aivm's key and its .pub file is missing
	// Encrypted, Hardware and AgentOnly keys are only used through the agent, so that no
	// program asks for a passphrase while a progress line is shown. AgentOnly means that
	// there is no private key file.
	Encrypted, Hardware, AgentOnly bool
	// InAgent means that the agent has the key. It is only set for a key that needs the
	// agent.
	InAgent bool
}

// NeedsAgent reports whether the key can only be used through the agent.
func (i Identity) NeedsAgent() bool { return i.Encrypted || i.Hardware || i.AgentOnly }

// Usable reports whether the key works for a login now, without asking the user.
func (i Identity) Usable() bool { return !i.NeedsAgent() || i.InAgent }

// AuthorizedKey returns the line for the guest's authorized_keys, without a line feed.
func (i Identity) AuthorizedKey() string {
	line := authorizedLine(i.Public)
	if i.Comment != "" {
		line += " " + i.Comment
	}
	return line
}

// OwnKeyPath returns the path of aivm's client key, whether or not it exists.
func (l Layout) OwnKeyPath() string { return filepath.Join(l.StateDir, ownKeyName) }

// Identities returns the client keys for guests: the configured one if there is one, then
// aivm's own if it exists. It changes nothing and does not ask the user. It contacts the
// agent only if a key needs it. A configured key that cannot be read is an error.
func (l Layout) Identities(ctx context.Context, configured string, getenv func(string) string) ([]Identity, error) {
	var ids []Identity
	if configured != "" {
		path := expandHome(configured, l.Home)
		if !filepath.IsAbs(path) {
			return nil, ui.Refused("the path of the configured ssh key, %q, is not absolute", configured).
				Hint(ui.CmdFor("to see the config", "aivm config show"))
		}
		path = filepath.Clean(path)
		if path != l.OwnKeyPath() {
			id, err := readIdentity(path)
			if err != nil {
				return nil, err
			}
			ids = append(ids, id)
		}
	}
	own, err := readIdentity(l.OwnKeyPath())
	switch {
	case err == nil:
		own.AivmKey = true
		_, err := os.Lstat(l.OwnKeyPath() + ".pub")
		own.PublicMissing = errors.Is(err, fs.ErrNotExist)
		ids = append(ids, own)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	for i := range ids {
		if ids[i].NeedsAgent() {
			if err := markInAgent(ctx, ids, getenv); err != nil {
				return nil, err
			}
			break
		}
	}
	return ids, nil
}

// StanzaIdentities returns the paths for the IdentityFile lines: keys that work without the
// agent first, so that ssh does not ask for a passphrase if another key works. The order
// does not depend on the agent's present keys, or the stanza would be rewritten whenever
// they change.
func StanzaIdentities(ids []Identity) []string {
	var plain, agent []string
	for _, id := range ids {
		if id.NeedsAgent() {
			agent = append(agent, id.Path)
		} else {
			plain = append(plain, id.Path)
		}
	}
	return append(plain, agent...)
}

// PlanOwnKey returns the action that makes aivm's client key. It is needed if none of ids is
// usable, or if aivm's key exists and its .pub file is missing.
func PlanOwnKey(l Layout, ids []Identity) []plan.Action {
	path, why := l.OwnKeyPath(), "create an ssh key of aivm's own for the VMs"
	for _, id := range ids {
		if id.AivmKey {
			if !id.PublicMissing {
				return nil
			}
			why = "write the missing .pub file of aivm's own ssh key"
			break
		}
		if id.Usable() {
			return nil
		}
		why = fmt.Sprintf("create an ssh key of aivm's own: %s only works through the ssh agent, which does not have it", id.Path)
	}
	return []plan.Action{{
		ID:      "ssh.key",
		Why:     why,
		Shows:   []string{"write " + path, "write " + path + ".pub"},
		Consent: plan.None,
		Timing:  "ssh",
		Do:      func(context.Context) error { return CreateOwnKey(l) },
	}}
}

// CreateOwnKey makes aivm's client key: ed25519, OpenSSH format, mode 0600, and the .pub
// file next to it. An existing private key is not overwritten, and a missing .pub file is
// written from it, so that the next run completes one that was killed in between.
func CreateOwnKey(l Layout) error {
	pemBytes, _, err := newKey("aivm")
	if err != nil {
		return err
	}
	path := l.OwnKeyPath()
	if err := createOwn(path, pemBytes, 0o600); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	id, err := readPrivate(path)
	if err != nil {
		return err
	}
	err = createOwn(path+".pub", []byte(authorizedLine(id.Public)+" aivm\n"), 0o644)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// readIdentity reads a private key file or, as OpenSSH does, a public key file whose
// private key is expected to be in the agent.
func readIdentity(path string) (Identity, error) {
	id, err := readPrivate(path)
	if err == nil {
		if pub, comment, perr := readPublic(path + ".pub"); perr == nil && bytes.Equal(pub.Marshal(), id.Public.Marshal()) {
			id.Comment = comment
		}
		return id, nil
	}
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errNotPrivate) {
		return id, err
	}
	// The path is that of a .pub file, or only the .pub file exists.
	for _, p := range []string{path, path + ".pub"} {
		if pub, comment, perr := readPublic(p); perr == nil {
			return Identity{Path: p, Public: pub, Comment: comment, AgentOnly: true}, nil
		}
	}
	return id, err
}

var errNotPrivate = errors.New("it contains no private key")

// readPrivate reads a private key file.
func readPrivate(path string) (Identity, error) {
	id := Identity{Path: path}
	fail := func(err error) (Identity, error) {
		return id, ui.Refused("the ssh key %s cannot be used: %w", path, err).
			Hint(ui.CmdFor("set ssh_identity_file in the config to another key, or leave it empty to use aivm's own key", "aivm config edit"))
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return fail(err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return fail(errNotPrivate)
	}
	// The same check as in ssh (authfile.c, sshkey_perm_ok): ssh ignores a private key that
	// others can read, and the login would just be refused.
	if st, err := os.Stat(path); err == nil && st.Mode().Perm()&0o077 != 0 {
		if s, ok := st.Sys().(*syscall.Stat_t); ok && int(s.Uid) == os.Getuid() {
			return id, ui.Refused("other users can read the ssh key %s (mode %04o), so ssh ignores it", path, st.Mode().Perm()).
				Hint(ui.Cmd("chmod 600 " + shellescape.Quote(path)))
		}
	}
	id.Public = publicOfOpenSSH(block)
	if id.Public != nil && strings.HasPrefix(id.Public.Type(), "sk-") {
		id.Hardware = true
		return id, nil
	}
	signer, err := ssh.ParsePrivateKey(data)
	var missing *ssh.PassphraseMissingError
	switch {
	case err == nil:
		id.Public = signer.PublicKey()
	case errors.As(err, &missing):
		id.Encrypted = true
		if id.Public == nil {
			id.Public = missing.PublicKey
		}
		if id.Public == nil { // the old PEM format encrypts the public key too
			if id.Public, _, err = readPublic(path + ".pub"); err != nil {
				return fail(fmt.Errorf("it is encrypted, and its .pub file cannot be read: %w", err))
			}
		}
	default:
		return fail(err)
	}
	return id, nil
}

// publicOfOpenSSH reads the public key from a private key file. OpenSSH's format
// (PROTOCOL.key) stores it unencrypted, also for encrypted and hardware keys.
// golang.org/x/crypto does not return it for hardware keys.
func publicOfOpenSSH(block *pem.Block) ssh.PublicKey {
	const magic = "openssh-key-v1\x00"
	body, ok := bytes.CutPrefix(block.Bytes, []byte(magic))
	if block.Type != "OPENSSH PRIVATE KEY" || !ok {
		return nil
	}
	var w struct {
		CipherName, KdfName, KdfOpts string
		NumKeys                      uint32
		PubKey                       []byte
		Rest                         []byte `ssh:"rest"`
	}
	if ssh.Unmarshal(body, &w) != nil || w.NumKeys != 1 {
		return nil
	}
	pub, err := ssh.ParsePublicKey(w.PubKey)
	if err != nil {
		return nil
	}
	return pub
}

// readPublic reads a public key file and returns the key and its comment.
func readPublic(path string) (ssh.PublicKey, string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, "", err
	}
	pub, comment, _, _, err := ssh.ParseAuthorizedKey(data)
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", path, err)
	}
	return pub, comment, nil
}
