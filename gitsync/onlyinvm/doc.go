// Package onlyinvm finds what exists only in a guest's clone and not in the repository on the host:
// commits, uncommitted files, stashes, other work trees, git-lfs objects.
//
// The guest reports this, so it can hide or invent something, but nothing more.
package onlyinvm
