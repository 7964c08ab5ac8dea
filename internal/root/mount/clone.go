// Package mount clones, finds and unmounts single mounts, in the mount namespace of
// this process and in those of other processes.
//
// It never unmounts lazily or recursively.
package mount

import (
	"golang.org/x/sys/unix"
)

// Clone clones the mount on which dir is, with dir as its root, and no mounts below
// it.
//
// The user checked and approved one folder on one file system. Mounts below it (a
// disk, another user's FUSE, an export of aivm's) were not checked and may be
// unable to map owners. The guest sees the directories under them instead.
func Clone(dir int) (int, error) {
	return unix.OpenTree(dir, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
}
