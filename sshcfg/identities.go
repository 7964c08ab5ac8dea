package sshcfg

import (
	"context"
)

// IdentitiesAt reads the client keys at these paths, which are those in a VM's stanza. A key
// that cannot be read is left out if there is another one. The agent is contacted only if
// all keys need it.
func (l Layout) IdentitiesAt(ctx context.Context, paths []string, getenv func(string) string) ([]Identity, error) {
	var ids []Identity
	var firstErr error
	plain := false
	for _, p := range paths {
		id, err := readIdentity(p)
		if err != nil {
			if firstErr == nil {
				firstErr = err
			}
			continue
		}
		id.AivmKey = p == l.OwnKeyPath()
		plain = plain || !id.NeedsAgent()
		ids = append(ids, id)
	}
	if len(ids) == 0 && firstErr != nil {
		return nil, firstErr
	}
	if !plain && len(ids) > 0 {
		if err := markInAgent(ctx, ids, getenv); err != nil {
			return nil, err
		}
	}
	return ids, nil
}
