package guest

import (
	"context"
	"errors"
	"fmt"
	"net"

	"golang.org/x/crypto/ssh"
)

// HostKeyOf asks the machine at addr ("ip:port") for its ed25519 host key, and
// leaves before a login. Nothing vouches for the answer: a person has to.
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
		return nil, fmt.Errorf("asking %s for its host key: %w", addr, err)
	}
	return key, nil
}
