// Package userfs serves folders of the user to a VM, without root.
//
// Start starts the server: this program again, in a jail (package jail) in which only the exported
// folders exist. The guest sees one file system whose root has a directory per export: "0", "1" and
// so on. What it may do there, and how it is kept inside, is described in package tree.
//
// FUSE messages come over a stream (package relay), to which the guest's agent copies what its kernel
// writes to /dev/fuse. The guest mounts with default_permissions, allow_other, nosuid and nodev, and
// max_read=1048576.
//
// The server ends when the process that started it ends, or when the guest's end is closed.
package userfs
