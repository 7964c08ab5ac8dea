// Package hostexec finds the host-executed files of a folder: files that programs on the host run
// or obey, such as git hooks, an editor's tasks or a Makefile.
//
// A guest that can write a folder can change these files, and then its code runs on the host,
// outside the VM, the next time the user types git, make or cd there. The package contains the list
// of names (Match), the scan of a folder (Scan) and the comparison of two scans (Diff). It never
// runs anything, never follows a link and never reads more of a folder than the limits below: a
// guest may write the folder during the scan.
//
// The list contains files that a tool runs by itself from a known place. It does not contain the
// project's own program or its dependencies: a user who runs the project's code runs what the guest
// wrote anyway.
package hostexec

// Limits of one scan.
const (
	MaxFiles   = 1000
	MaxBytes   = 10 << 20
	maxEntries = 50000 // directory entries read
	maxDepth   = 12
)
