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

	"golang.org/x/crypto/ssh"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
)

// Identity is a key a guest lets in.
type Identity struct {
	Path    string // the private key file, or a .pub whose other half is in the agent
	Public  ssh.PublicKey
	Comment string
	Ours    bool // made by aivm, not the user's
	Half    bool // ours, and the file of its public half is missing
	// Encrypted, Hardware and AgentOnly keys work only through the agent, so
	// that nothing ever asks for a passphrase behind a progress line. AgentOnly
	// means that there is no private key file at all.
	Encrypted, Hardware, AgentOnly bool
	// InAgent is looked up only for a key that needs the agent.
	InAgent bool
}

// NeedsAgent reports whether the key cannot be used from its file alone.
func (i Identity) NeedsAgent() bool { return i.Encrypted || i.Hardware || i.AgentOnly }

// Usable reports whether the key can log in now, without a question.
func (i Identity) Usable() bool { return !i.NeedsAgent() || i.InAgent }

// AuthorizedKey is the line for the guest's authorized_keys, without line end.
func (i Identity) AuthorizedKey() string {
	line := authorizedLine(i.Public)
	if i.Comment != "" {
		line += " " + i.Comment
	}
	return line
}

// OwnKeyPath is where aivm's own client key lies or would lie.
func (l Layout) OwnKeyPath() string { return filepath.Join(l.StateDir, ownKeyName) }

// Identities observes the keys for our guests: the configured one, if one is
// configured, then our own if it exists. It changes nothing and asks nothing.
// The agent is asked only when a key needs it. A configured key that cannot be
// read is an error, never silently left out.
func (l Layout) Identities(ctx context.Context, configured string, getenv func(string) string) ([]Identity, error) {
	var ids []Identity
	if configured != "" {
		path := expandHome(configured, l.Home)
		if !filepath.IsAbs(path) {
			return nil, ui.Refused("the configured ssh key %q is not an absolute path", configured).
				Hint(ui.Cmd("aivm config show"))
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
		own.Ours = true
		_, err := os.Lstat(l.OwnKeyPath() + ".pub")
		own.Half = errors.Is(err, fs.ErrNotExist)
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

// StanzaIdentities is the order of IdentityFile lines: keys that work from
// their file first, so that ssh never asks for a passphrase while another key
// would do. It does not depend on what the agent holds today, or a stanza would
// be rewritten at every change of the agent.
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

// PlanOwnKey is the action that makes our own key: needed while none of ids
// works without a question, or when only the half of it is there.
func PlanOwnKey(l Layout, ids []Identity) []plan.Action {
	path, why := l.OwnKeyPath(), "make an ssh key of aivm's own for the VMs"
	for _, id := range ids {
		if id.Ours {
			if !id.Half {
				return nil
			}
			why = "write the missing public half of aivm's own ssh key"
			break
		}
		if id.Usable() {
			return nil
		}
		why = fmt.Sprintf("make an ssh key of aivm's own too: %s needs the agent, which does not hold it", id.Path)
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

// CreateOwnKey makes our client key: ed25519, OpenSSH format, 0600, with its
// .pub beside it. An existing private key is never overwritten; a missing .pub
// is written from it, so a run killed between the two is finished by the next.
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

// readIdentity reads a private key file, or, as OpenSSH does, a public key
// file whose private half is expected in the agent.
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
	// "key.pub" named directly, or "key" of which only key.pub is on disk.
	for _, p := range []string{path, path + ".pub"} {
		if pub, comment, perr := readPublic(p); perr == nil {
			return Identity{Path: p, Public: pub, Comment: comment, AgentOnly: true}, nil
		}
	}
	return id, err
}

var errNotPrivate = errors.New("no private key in it")

func readPrivate(path string) (Identity, error) {
	id := Identity{Path: path}
	fail := func(err error) (Identity, error) {
		return id, ui.Refused("the ssh key %s cannot be used: %w", path, err).
			Hint(ui.Remark("set another key with ssh_identity_file in the configuration, or leave it empty for a key of aivm's own"), ui.Cmd("aivm config path"))
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return fail(err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return fail(errNotPrivate)
	}
	// The same test as ssh's own (authfile.c, sshkey_perm_ok): it ignores a
	// private key that others may read, which would look like a refused login.
	if st, err := os.Stat(path); err == nil && st.Mode().Perm()&0o077 != 0 {
		if s, ok := st.Sys().(*syscall.Stat_t); ok && int(s.Uid) == os.Getuid() {
			return id, ui.Refused("the ssh key %s is open to others (mode %04o), so ssh ignores it", path, st.Mode().Perm()).
				Hint(ui.Cmd("chmod 600 " + path))
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
		if id.Public == nil { // the old PEM format hides the public half too
			if id.Public, _, err = readPublic(path + ".pub"); err != nil {
				return fail(fmt.Errorf("it is encrypted, and its public half: %w", err))
			}
		}
	default:
		return fail(err)
	}
	return id, nil
}

// publicOfOpenSSH reads the public half, which OpenSSH's format (PROTOCOL.key)
// stores in the clear even for encrypted and hardware keys. x/crypto does not
// give it for the latter.
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
