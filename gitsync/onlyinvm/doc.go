// Package onlyinvm asks a clone in a guest what it has that the repository on this
// machine does not: commits, files that are not committed, stashes, other work
// trees, files of git-lfs.
//
// The guest answers, so it can hide something or make something up, and no more.
package onlyinvm
