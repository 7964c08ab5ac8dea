// Package gitsync is git mode: the guest has a clone of its own, and commits
// move over the connection that is already there.
//
// It owns the remote section in the host repository's configuration, the refs
// below refs/remotes/REMOTE, the guest's clone, and the packs that go between.
// It never merges, never moves a host branch but by Pull, and never writes to
// the host's index or work tree but there.
//
// Invariants: host git runs only where the caller has made sure that no guest
// can write (Guarded), after its configuration was read and found to come from
// nowhere a guest can write, and with every filter switched off that a person
// did not agree to by the list; of a guest nothing is obeyed: what it says is bounded,
// names are checked, its objects go through index-pack --strict in a directory
// of their own and become part of the repository only when everything the refs
// need is there; refs change in one transaction, after the objects. A push cut
// anywhere leaves the guest's branch as it was or as it should be.
//
// The packages below it, each importing only those before it:
//
//   - writable: whether a path of this machine lies where a guest can write
//   - guestscript: what the guest's user runs in the clone
//   - hostgit: the git of this machine, its configuration, what it would run
//   - remoteconfig: the remote's section in .git/config
//   - compare: the repository here, the clone there, how they stand to each other
//   - transfer: fetch, push, quarantine, what is kept of earlier clones
//   - onlyinvm: what only the clone has
//   - carry: submodules and files of git-lfs
//   - pull: what a pull brings, its hazards, the fast-forward
//
// This package makes the clone, pushes the branch that is checked out, and sends
// uncommitted files (sync.go, uncommitted.go). For the rest it gives the names
// that its callers use (names.go). gittest and clonetest are for tests.
package gitsync
