package share

import (
	"errors"
	"maps"
)

// WithGuestOwners adds the folder owners that the guest reports to the facts. A folder
// that does not belong to the guest's user there is no longer Bound, so that PlanHost
// mounts it again with its present owner mapped. A lying guest gains nothing: it can
// only cause the same mount to be made again.
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
