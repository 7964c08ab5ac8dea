package record

import (
	"syscall"

	"aivm.dev/aivm/internal/guestuser"
)

// GuestUser is the uid and gid of the user that cloud-init makes in every guest.
const GuestUser = guestuser.ID

// Nobody is the uid and gid on the host of the files that guest root makes.
const Nobody = 65534

// OwnerMap maps ids on disk (ContainerID, inside the user namespace) to ids seen
// through the mount (HostID): the folder's owner is the guest user, and nobody is
// the guest's root. The second entry is not only for safety: virtiofsd renames as
// uid 0, and without it every rename fails with EOVERFLOW (measured).
func OwnerMap(owner int) []syscall.SysProcIDMap {
	rest := Nobody
	if owner == Nobody {
		// One id cannot be mapped twice; the next lower one has no rights either.
		rest = Nobody - 1
	}
	return []syscall.SysProcIDMap{
		{ContainerID: owner, HostID: GuestUser, Size: 1},
		{ContainerID: rest, HostID: 0, Size: 1},
	}
}
