package compare

import (
	"maps"
	"slices"
	"strings"
)

// MovedBranches returns the guest's branches that are not at the commit last fetched or pushed.
func MovedBranches(h Host, g Guest) map[string]string {
	out := map[string]string{}
	for name, oid := range g.Heads {
		if h.Tracked[name] != oid {
			out[name] = oid
		}
	}
	return out
}

// RefUpdate sets one ref of the guest's clone.
type RefUpdate struct {
	Ref string
	Old string // "" for a new one
	New string
}

// Updates returns the guest refs that a push of the host's branch sets: the branch, if the host is
// ahead, and tags on it that the guest lacks. A tag of the same name that points elsewhere stays as
// it is in the guest, and is returned in kept.
func Updates(h Host, g Guest) (ups []RefUpdate, kept []string) {
	ref := "refs/heads/" + h.Branch
	if old := g.Heads[h.Branch]; old != h.Head && (old == "" || h.Tracked[h.Branch] == old && h.Behind == 0) {
		ups = append(ups, RefUpdate{Ref: ref, Old: old, New: h.Head})
	}
	for _, t := range slices.Sorted(maps.Keys(h.Tags)) {
		switch old := g.Tags[t]; old {
		case h.Tags[t]:
		case "":
			if !g.RefsTruncated && BranchName(strings.TrimPrefix(t, "refs/tags/")) {
				ups = append(ups, RefUpdate{Ref: t, New: h.Tags[t]})
			}
		default:
			kept = append(kept, strings.TrimPrefix(t, "refs/tags/"))
		}
	}
	return ups, kept
}

// Known returns commits the guest certainly has: the reported tips of its branches that match what
// was fetched or pushed before, or a host branch. What a guest merely claims to have is no reason
// to leave objects out of a push.
func Known(h Host, g Guest) []string {
	var out []string
	for name, oid := range g.Heads {
		if h.Tracked[name] == oid || h.Heads[name] == oid {
			out = append(out, oid)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Relation is how the guest's branch relates to the host's branch of that name.
type Relation string

// The values of Relation.
const (
	Same      Relation = "same"
	HostAhead Relation = "ahead"  // a push updates the guest
	VMAhead   Relation = "behind" // the guest has commits that the host has not merged
	Diverged  Relation = "diverged"
	Missing   Relation = "missing" // the guest has no such branch
	Unseen    Relation = "unseen"  // unknown until the guest's commits are fetched
)

// Relate compares the branches, as far as the host has the objects.
func Relate(h Host, g Guest) Relation {
	switch at := g.Heads[h.Branch]; {
	case g.State != Clone || at == "":
		return Missing
	case at == h.Head:
		return Same
	case at != h.Tracked[h.Branch]:
		return Unseen
	case h.Behind == 0:
		return HostAhead
	case h.Ahead == 0:
		return VMAhead
	}
	return Diverged
}

// ShouldSwitch reports whether the guest should check out the host's branch: it is still on the
// branch aivm checked out last, so nobody in the guest chose another.
func ShouldSwitch(h Host, g Guest) bool {
	return g.State == Clone && g.Head != "" && g.Head != h.Branch && g.Head == g.Marked
}
