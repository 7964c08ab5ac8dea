package compare

import (
	"maps"
	"slices"
	"strings"
)

// News are the branches of the guest that are not where they were last seen.
func News(h Host, g Guest) map[string]string {
	out := map[string]string{}
	for name, oid := range g.Heads {
		if h.Tracked[name] != oid {
			out[name] = oid
		}
	}
	return out
}

// RefUpdate is one ref of the guest's clone to be set.
type RefUpdate struct {
	Ref string
	Old string // "" for a new one
	New string
}

// Updates are the refs of the guest that a push of the host's branch sets: the
// branch, if the host is ahead of it, and tags on it the guest lacks. A tag of
// the same name at something else stays as it is there, and is returned.
func Updates(h Host, g Guest) (ups []RefUpdate, kept []string) {
	ref := "refs/heads/" + h.Branch
	if old := g.Heads[h.Branch]; old != h.Head && (old == "" || h.Tracked[h.Branch] == old && h.Behind == 0) {
		ups = append(ups, RefUpdate{Ref: ref, Old: old, New: h.Head})
	}
	for _, t := range slices.Sorted(maps.Keys(h.Tags)) {
		switch old := g.Tags[t]; old {
		case h.Tags[t]:
		case "":
			if !g.More && BranchName(strings.TrimPrefix(t, "refs/tags/")) {
				ups = append(ups, RefUpdate{Ref: t, New: h.Tags[t]})
			}
		default:
			kept = append(kept, strings.TrimPrefix(t, "refs/tags/"))
		}
	}
	return ups, kept
}

// Known are commits the guest has for certain: what it says its branches are
// at, where that is what was seen of them before or what the host sent. What a
// guest merely claims to have is not taken for a reason to leave something out.
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

// Relation says how the guest's branch stands to the host's of that name.
type Relation string

// How they can stand to each other.
const (
	Same      Relation = "same"
	HostAhead Relation = "ahead"  // a push brings the guest up to date
	VMAhead   Relation = "behind" // the guest committed; the host has not taken it over
	Diverged  Relation = "diverged"
	Missing   Relation = "missing" // the guest has no such branch
	Unseen    Relation = "unseen"  // the guest's commits have to be fetched to tell
)

// Relate compares the branches as far as the host's objects tell.
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

// Follows reports whether the guest should check out the host's branch: it is
// still on the one aivm checked out, so nobody there chose another.
func Follows(h Host, g Guest) bool {
	return g.State == Clone && g.Head != "" && g.Head != h.Branch && g.Head == g.Marked
}
