package sshcfg

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"aivm.dev/aivm/internal/ui"
)

// agentPatience bounds talking to an agent: one that hangs must not hang us.
// Signing has no limit, since a person may have to touch a key.
const agentPatience = 2 * time.Second

// dialAgent connects to the agent of SSH_AUTH_SOCK; nil without an error when
// there is none, which is a fact and not a failure.
func dialAgent(ctx context.Context, getenv func(string) string) (net.Conn, error) {
	sock := getenv("SSH_AUTH_SOCK")
	if sock == "" {
		return nil, nil
	}
	d := net.Dialer{Timeout: agentPatience}
	c, err := d.DialContext(ctx, "unix", sock)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, nil // a stale socket of an agent that is gone
	}
	return c, nil
}

// markInAgent sets InAgent of every key that needs the agent. An agent that
// does not answer counts as one that holds nothing: then our own key is used.
func markInAgent(ctx context.Context, ids []Identity, getenv func(string) string) error {
	c, err := dialAgent(ctx, getenv)
	if c == nil || err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(agentPatience)); err != nil {
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

// AuthMethods is how our own client logs in: one publickey method whose
// signers are exactly ids that work without a question. Keys in files come
// first, then those of the agent, which may want a touch. The agent is
// connected only if one of its keys is used; close the Closer after login.
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
			errs = append(errs, ui.Failed("the ssh agent no longer has %s", id.Path))
			continue
		}
		signers = append(signers, s)
	}
	if len(signers) > 0 {
		return []ssh.AuthMethod{ssh.PublicKeys(signers...)}, closer, nil
	}
	closer.Close() //nolint:errcheck // nothing was done with it
	if len(errs) > 0 {
		return nil, closers(nil), errors.Join(errs...)
	}
	e := ui.Refused("no ssh key works without a question")
	for _, id := range ids {
		if id.NeedsAgent() {
			e.Hint(ui.Cmd("ssh-add " + id.Path))
		}
	}
	return nil, closers(nil), e
}

func agentSigners(c net.Conn) ([]ssh.Signer, error) {
	if err := c.SetDeadline(time.Now().Add(agentPatience)); err != nil {
		return nil, err
	}
	s, err := agent.NewClient(c).Signers()
	if err != nil {
		return nil, err
	}
	return s, c.SetDeadline(time.Time{})
}

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
