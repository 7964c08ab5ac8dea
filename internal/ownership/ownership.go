// Package ownership finds the files of a folder that belong to users or groups which the
// mount for a guest does not map: nobody in the guest can change them.
//
// The folder may be writable by a guest during the search (hostfile.Search).
package ownership

import (
	"cmp"
	"context"
	"fmt"
	"os/user"
	"slices"
	"strconv"
	"time"

	"aivm.dev/aivm/internal/hostfile"
)

// Ids are the owners on disk that a mount maps.
type Ids struct {
	UIDs, GIDs []int
}

// A Kind is a user or a group.
type Kind string

// The kinds.
const (
	User  Kind = "user"
	Group Kind = "group"
)

// Unmapped are the files of one user or group that a mount does not map.
type Unmapped struct {
	Kind  Kind
	ID    int
	Name  string // "" if there is none
	Count int
	Paths []string // the first few, relative to the folder; any bytes
}

// List is the result of a search.
type List struct {
	Unmapped []Unmapped // users first, the most frequent first
	Cut      string     // why the search is incomplete, "" if it is complete
}

// Limits of a search.
const (
	maxEntries = 300_000
	maxTime    = 3 * time.Second
	maxKinds   = 64 // different users and groups
	maxPaths   = 4  // of each
)

type owner struct {
	kind Kind
	id   int
}

type search struct {
	hostfile.Search
	mapped Ids
	found  map[owner]*Unmapped
}

// Find searches a folder.
func Find(ctx context.Context, dir string, mapped Ids) (List, error) {
	s := search{Search: hostfile.Search{Entries: maxEntries, Time: maxTime}, mapped: mapped, found: map[owner]*Unmapped{}}
	s.Visit = s.check
	if err := s.Run(ctx, dir); err != nil {
		return List{}, fmt.Errorf("searching %s for files of other users and groups: %w", dir, err)
	}
	l := List{Cut: s.Cut}
	for _, u := range s.found {
		u.Name = name(u.Kind, u.ID)
		l.Unmapped = append(l.Unmapped, *u)
	}
	slices.SortFunc(l.Unmapped, func(a, b Unmapped) int {
		return cmp.Or(-cmp.Compare(a.Kind, b.Kind), b.Count-a.Count, a.ID-b.ID)
	})
	return l, nil
}

// name returns the name of a user or group on this machine, or "".
func name(kind Kind, id int) string {
	if kind == User {
		if u, err := user.LookupId(strconv.Itoa(id)); err == nil {
			return u.Username
		}
	} else if g, err := user.LookupGroupId(strconv.Itoa(id)); err == nil {
		return g.Name
	}
	return ""
}

// check adds a file to what is found if its user or group is not mapped. Of what another mount covers,
// the guest sees the file below it.
func (s *search) check(v hostfile.Visited) {
	st, ok := v.Stat()
	uid, gid := int(st.Uid), int(st.Gid)
	user, group := !slices.Contains(s.mapped.UIDs, uid), !slices.Contains(s.mapped.GIDs, gid)
	if !ok || !user && !group || v.Mounted() {
		return
	}
	if user {
		s.add(owner{User, uid}, v.Rel)
	}
	if group {
		s.add(owner{Group, gid}, v.Rel)
	}
}

func (s *search) add(o owner, rel string) {
	u := s.found[o]
	if u == nil {
		if len(s.found) == maxKinds {
			s.Note("its files belong to more than %d users and groups", maxKinds)
			return
		}
		u = &Unmapped{Kind: o.kind, ID: o.id}
		s.found[o] = u
	}
	if u.Count++; len(u.Paths) < maxPaths {
		u.Paths = append(u.Paths, rel)
	}
}
