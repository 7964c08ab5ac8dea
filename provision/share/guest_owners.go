package share

import (
	"errors"
	"maps"
)

// WithGuestOwners adds to the facts what the guest says of its folders: one whose owner
// it does not see as its own user is no longer Bound, so that PlanHost shares
// it anew, with the owner of today. The guest can lie; the worst it gets is
// the bind it has.
func (f HostFacts) WithGuestOwners(g GuestFacts, atts []Attachment) HostFacts {
	f.wrongOwner = maps.Clone(f.wrongOwner)
	for _, a := range atts {
		if errors.Is(Verify(g, f, a), ErrOwner) {
			if f.wrongOwner == nil {
				f.wrongOwner = map[string]bool{}
			}
			f.wrongOwner[Token(a.HostPath)] = true
		}
	}
	return f
}
