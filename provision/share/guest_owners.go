package share

import (
	"errors"
	"maps"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"aivm.dev/aivm/internal/lazyre"
	"aivm.dev/aivm/internal/root"
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

// groupLookup caches the groups of users, by uid.
type groupLookup map[int][]int

// ofOwner returns the groups besides gid whose files the guest's user may change in a
// folder of uid: those that its owner is in. A user who shares another user's folder
// gives the guest no group that he is not in himself. Root's folders get none: root needs
// no group to change a file, so its groups say nothing.
func (l groupLookup) ofOwner(uid, gid int) []int {
	if uid == 0 {
		return nil
	}
	groups := l.of(uid)
	if me := os.Geteuid(); me != 0 && me != uid {
		mine := l.of(me)
		groups = slices.DeleteFunc(slices.Clone(groups), func(g int) bool { return !slices.Contains(mine, g) })
	}
	return root.Mappable(gid, groups)
}

// of returns the groups of a user as the system's database has them, so that two sessions
// of one user do not differ; for a user without an account, those of this process.
func (l groupLookup) of(uid int) []int {
	if g, ok := l[uid]; ok {
		return g
	}
	var out []int
	u, err := user.LookupId(strconv.Itoa(uid))
	if err == nil {
		ids, _ := u.GroupIds() // groups that cannot be looked up are not mapped
		for _, id := range ids {
			if n, err := strconv.Atoi(id); err == nil {
				out = append(out, n)
			}
		}
	} else if uid == os.Geteuid() {
		out, _ = os.Getgroups()
		out = append(out, os.Getegid())
	}
	l[uid] = out
	return out
}

// nameGroups looks up the names of groups.
func (f *HostFacts) nameGroups(gids []int) {
	for _, g := range gids {
		if _, ok := f.GroupNames[g]; ok {
			continue
		}
		if n, err := user.LookupGroupId(strconv.Itoa(g)); err == nil {
			if f.GroupNames == nil {
				f.GroupNames = map[int]string{}
			}
			f.GroupNames[g] = n.Name
		}
	}
}

// groupNameRE matches the names that groupadd(8) accepts everywhere.
var groupNameRE = lazyre.New(`^[a-z_][a-z0-9_-]{0,30}$`)

// guestGroups returns the groups of which the guest's user becomes a member, as lines
// "group GID NAME" of the list for the next boot. Without them the guest's kernel would
// let him neither give a file to the group nor keep a directory's setgid bit in chmod. A
// group of a person keeps its name; one of the system gets another, since the guest may
// have a group of that name.
func (f HostFacts) guestGroups(atts []Attachment) []string {
	var gids []int
	names := map[int]string{}
	for _, a := range atts {
		folder := f.Folders[a.HostPath]
		for _, g := range folder.Groups {
			in := root.GuestGroup(folder.GID, g)
			gids = append(gids, in)
			if n := f.GroupNames[g]; in == g && g >= firstUserGroup && groupNameRE.MatchString(n) {
				names[in] = n
			}
		}
	}
	slices.Sort(gids)
	var out []string
	for _, g := range slices.Compact(gids) {
		name := names[g]
		if name == "" {
			name = "aivm-" + strconv.Itoa(g)
		}
		out = append(out, strings.Join([]string{"group", strconv.Itoa(g), name}, " "))
	}
	return out
}

// firstUserGroup is the first gid that distributions give to people and their projects
// (GID_MIN in login.defs).
const firstUserGroup = 1000
