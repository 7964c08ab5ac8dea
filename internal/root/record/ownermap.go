package record

import (
	"syscall"

	"aivm.dev/aivm/internal/guestuser"
)

// GuestUser is the uid and gid of the user cloud-init makes in every guest.
const GuestUser = guestuser.ID

// Nobody owns on the host what guest root makes.
const Nobody = 65534

// OwnerMap says how ids on disk (ContainerID, the inside of the namespace)
// appear through the mount (HostID): the folder's owner is the guest's user,
// and the guest's root is nobody. The second line is not only for safety:
// virtiofsd renames as uid 0, and without it every rename fails with
// EOVERFLOW (shares.md 5).
func OwnerMap(owner int) []syscall.SysProcIDMap {
	rest := Nobody
	if owner == Nobody {
		// One id cannot be both; its neighbour is as powerless.
		rest = Nobody - 1
	}
	return []syscall.SysProcIDMap{
		{ContainerID: owner, HostID: GuestUser, Size: 1},
		{ContainerID: rest, HostID: 0, Size: 1},
	}
}
