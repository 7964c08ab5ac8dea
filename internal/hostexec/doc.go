// Package hostexec knows which files of a project this machine's own tools
// run: git's hooks, an editor's tasks, a Makefile.
//
// A guest that can write a folder can change them, and what it leaves there
// runs here, outside the VM, the next time somebody types git, make or cd. The
// package owns the list of names (Match), the look at a folder (Scan) and the
// comparison of two looks (Diff). It never runs anything, never follows a link
// and never reads more of a folder than the bounds below: the folder may be
// written by a guest while it looks.
//
// The list holds what a tool runs by itself from a known place. It does not
// hold the program that is built and started, nor dependencies: whoever runs
// the project's own code runs what the guest wrote, whatever is listed.
package hostexec

// Bounds of one look.
const (
	MaxFiles   = 1000
	MaxBytes   = 10 << 20
	maxEntries = 50000 // directory entries looked at
	maxDepth   = 12
)
