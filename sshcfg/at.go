package sshcfg

import (
	"context"
)

// IdentitiesAt reads the keys a VM was made with, by the paths its stanza
// names. A key that is gone is left out while another is there: the agent is
// asked only when none of the others works from its file.
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
		id.Ours = p == l.OwnKeyPath()
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
