package record

import (
	"slices"
	"syscall"

	"aivm.dev/aivm/internal/guestuser"
)

// GuestUser is the uid and gid of the user that cloud-init makes in every guest.
const GuestUser = guestuser.ID

// Nobody is the uid and gid on the host of the files that guest root makes.
const Nobody = 65534

// MaxGroups is the most groups of one Bind: the kernel takes a map of less than 4096
// bytes (user_namespaces(7)).
const MaxGroups = 128

// OwnerMap maps ids on disk (ContainerID, inside the user namespace) to ids seen
// through the mount (HostID): the folder's owner is the guest user, and nobody is
// the guest's root. The second entry is not only for safety: virtiofsd renames as
// uid 0, and without it every rename fails with EOVERFLOW (measured).
func OwnerMap(owner int) []syscall.SysProcIDMap {
	return []syscall.SysProcIDMap{
		{ContainerID: owner, HostID: GuestUser, Size: 1},
		{ContainerID: guestRoot(owner), HostID: 0, Size: 1},
	}
}

// guestRoot returns the id on disk of what guest root makes in a folder of owner.
func guestRoot(owner int) int {
	if owner == Nobody {
		// One id cannot be mapped twice; the next lower one has no rights either.
		return Nobody - 1
	}
	return Nobody
}

// GroupMap is OwnerMap for gids, followed by the other groups that the folder's owner
// is in. The kernel refuses to change a file whose group is not mapped, whoever owns
// it (EOVERFLOW), so a file of a project's group needs that group.
func GroupMap(gid int, groups []int) []syscall.SysProcIDMap {
	out := OwnerMap(gid)
	for _, g := range groups {
		out = append(out, syscall.SysProcIDMap{ContainerID: g, HostID: GuestGroup(gid, g), Size: 1})
	}
	return out
}

// GuestGroup returns the gid in the guest of group g, one of a Bind's Groups, in a
// folder of group gid: the same number, unless that is the guest user's.
func GuestGroup(gid, g int) int {
	switch {
	case g != GuestUser:
		return g
	case gid == 0:
		return Nobody // no group of a Bind is nobody
	}
	return gid // free, because gid itself is the guest user's group there
}

// Mappable returns the groups that a folder of group gid can have mapped besides gid,
// sorted. It leaves out root's: a setgid file of it would be root's on this machine.
func Mappable(gid int, groups []int) []int {
	var out []int
	for _, g := range groups {
		if mappable(gid, g) {
			out = append(out, g)
		}
	}
	slices.Sort(out)
	out = slices.Compact(out)
	return out[:min(len(out), MaxGroups)]
}

func mappable(gid, g int) bool {
	return g > 0 && g <= maxID && g != gid && g != Nobody && g != guestRoot(gid)
}
