package sshcfg

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"al.essio.dev/pkg/shellescape"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"aivm.dev/aivm/internal/ui"
)

// agentTimeout is the time limit for requests to the agent, which may hang. Signing has no
// limit, since the user may have to touch a hardware key.
const agentTimeout = 2 * time.Second

// dialAgent connects to the agent of SSH_AUTH_SOCK. It returns nil without an error if there
// is no agent.
func dialAgent(ctx context.Context, getenv func(string) string) (net.Conn, error) {
	sock := getenv("SSH_AUTH_SOCK")
	if sock == "" {
		return nil, nil
	}
	d := net.Dialer{Timeout: agentTimeout}
	c, err := d.DialContext(ctx, "unix", sock)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, nil // the stale socket of an agent that has ended
	}
	return c, nil
}

// markInAgent sets InAgent of the keys that need the agent. An agent that does not answer
// counts as one without keys; aivm's own key is used then.
func markInAgent(ctx context.Context, ids []Identity, getenv func(string) string) error {
	c, err := dialAgent(ctx, getenv)
	if c == nil || err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(agentTimeout)); err != nil {
		return nil
	}
	keys, err := agent.NewClient(c).List()
	if err != nil {
		return ctx.Err()
	}
	for i := range ids {
		for _, k := range keys {
			if ids[i].NeedsAgent() && bytes.Equal(k.Blob, ids[i].Public.Marshal()) {
				ids[i].InAgent = true
			}
		}
	}
	return nil
}

// AuthMethods returns the login method for aivm's SSH client: one publickey method with the
// keys of ids that work without asking the user. Keys from files come first, then those in
// the agent, which may require touching a device. The agent is contacted only if one of its
// keys is used. Close the Closer after the login.
func AuthMethods(ids []Identity, getenv func(string) string) ([]ssh.AuthMethod, io.Closer, error) {
	var signers, fromAgent []ssh.Signer
	var errs []error
	var closer closers
	for _, id := range ids {
		if id.NeedsAgent() {
			continue
		}
		data, err := os.ReadFile(id.Path)
		if err == nil {
			var s ssh.Signer
			if s, err = ssh.ParsePrivateKey(data); err == nil {
				signers = append(signers, s)
				continue
			}
		}
		errs = append(errs, ui.Failed("reading the ssh key %s: %w", id.Path, err))
	}
	for _, id := range ids {
		if !id.NeedsAgent() || !id.InAgent {
			continue
		}
		var err error
		if fromAgent == nil {
			var c net.Conn
			if c, err = dialAgent(context.Background(), getenv); err == nil && c != nil {
				closer = append(closer, c)
				fromAgent, err = agentSigners(c)
			}
		}
		s := find(fromAgent, id.Public)
		if err != nil || s == nil {
			errs = append(errs, ui.Failed("the ssh agent no longer has the key %s", id.Path))
			continue
		}
		signers = append(signers, s)
	}
	if len(signers) > 0 {
		return []ssh.AuthMethod{ssh.PublicKeys(signers...)}, closer, nil
	}
	closer.Close() //nolint:errcheck // the connection was not used
	if len(errs) > 0 {
		return nil, closers(nil), errors.Join(errs...)
	}
	e := ui.Refused("no ssh key works without a passphrase: the ssh agent has none of them")
	for _, id := range ids {
		if id.NeedsAgent() {
			e.Hint(ui.Cmd("ssh-add " + shellescape.Quote(id.Path)))
		}
	}
	return nil, closers(nil), e
}

// agentSigners returns the agent's keys.
func agentSigners(c net.Conn) ([]ssh.Signer, error) {
	if err := c.SetDeadline(time.Now().Add(agentTimeout)); err != nil {
		return nil, err
	}
	s, err := agent.NewClient(c).Signers()
	if err != nil {
		return nil, err
	}
	return s, c.SetDeadline(time.Time{})
}

// find returns the signer for a public key, nil if there is none.
func find(signers []ssh.Signer, pub ssh.PublicKey) ssh.Signer {
	for _, s := range signers {
		if bytes.Equal(s.PublicKey().Marshal(), pub.Marshal()) {
			return s
		}
	}
	return nil
}

type closers []io.Closer

func (cs closers) Close() error {
	var errs []error
	for _, c := range cs {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}
