package share

import (
	"errors"
	"maps"
)

// Heard adds to the facts what the guest says of its folders: one whose owner
// it does not see as its own user is no longer Bound, so that PlanHost shares
// it anew, with the owner of today. The guest can lie; the worst it gets is
// the bind it has.
func (f HostFacts) Heard(g GuestFacts, atts []Attachment) HostFacts {
	f.stale = maps.Clone(f.stale)
	for _, a := range atts {
		if errors.Is(Verify(g, f, a), ErrOwner) {
			if f.stale == nil {
				f.stale = map[string]bool{}
			}
			f.stale[Token(a.HostPath)] = true
		}
	}
	return f
}
