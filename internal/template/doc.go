// Package template keeps saved VMs and resumes runs from them.
//
// A template is a directory: the memory of a VM that was saved while it waited for
// the host, the state of its devices, its disk, and the kernel and initrd with which
// it can also be booted. It is named by the digest of everything that the saved
// memory depends on, is published by a rename, and is never changed afterwards: runs
// map its memory privately and write to an overlay of their own that has no name.
//
// It owns the directory of a Store and nothing else. How a template is filled is the
// caller's: see Draft.
package template
