package share

import (
	"errors"
	"fmt"
	"maps"

	"aivm.dev/aivm/internal/root/mountinfo"
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

// ReleaseScript returns a shell script, to be run by guest root, after which
// the guest holds nothing of a's folder any more, so that this machine can take
// the token away: it is unmounted, and forgotten by the guest's caches, for
// each entry of which virtiofsd holds a descriptor (shares.md 3). A folder that
// is in use there stays, and is named (GuestError).
func ReleaseScript(a Attachment) string {
	return guestHead + fmt.Sprintf("main() {\ndrop %s %s %s\n", Token(a.HostPath), quote(a.GuestDst), quote(mountinfo.Escape(a.GuestDst))) +
		"sync -f \"$dev\"\necho 2 >/proc/sys/vm/drop_caches\nreturn 0\n}\nmain\n"
}
