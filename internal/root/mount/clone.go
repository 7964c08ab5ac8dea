// Package mount clones, finds and unmounts single mounts, in this process's mount
// namespace and in those of others.
//
// It unmounts nothing lazily, and does nothing recursive.
package mount

import (
	"golang.org/x/sys/unix"
)

// Clone clones the one mount dir lies on, beginning at dir.
//
// Not recursively: what was looked at and approved is one folder on one file
// system. Mounts below it (a disk, another user's FUSE, an export of ours)
// were not, may not be able to map owners, and would come along unseen. They
// appear as the directories they cover.
func Clone(dir int) (int, error) {
	return unix.OpenTree(dir, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
}
