package guest

import (
	"context"
	"errors"
	"fmt"
	"net"

	"golang.org/x/crypto/ssh"
)

// HostKeyOf returns the ed25519 host key of the SSH server at addr ("ip:port"), without a login. The
// key is not verified: the user has to do that.
func HostKeyOf(ctx context.Context, addr string) (ssh.PublicKey, error) {
	d := net.Dialer{Timeout: connectLimit}
	raw, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, &UnreachableError{Addr: addr, Phase: PhaseNoAnswer, Err: err}
	}
	defer raw.Close()
	defer context.AfterFunc(ctx, func() { _ = raw.Close() })()
	seen := errors.New("seen")
	var key ssh.PublicKey
	_, _, _, err = ssh.NewClientConn(raw, addr, &ssh.ClientConfig{
		Config: algorithms(), User: "nobody", HostKeyAlgorithms: []string{ssh.KeyAlgoED25519}, Timeout: connectLimit,
		HostKeyCallback: func(_ string, _ net.Addr, k ssh.PublicKey) error { key = k; return seen },
	})
	if key == nil {
		return nil, fmt.Errorf("reading the host key of %s: %w", addr, err)
	}
	return key, nil
}
