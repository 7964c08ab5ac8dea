// Package gitsync implements git mode: the guest has its own clone, and commits are transferred over
// the SSH connection that is already open.
//
// It owns the remote section in the host repository's configuration, the refs below
// refs/remotes/REMOTE, the guest's clone, and the packs sent between the two. It never merges. Only
// Pull moves a host branch or writes the host's index or work tree.
//
// Invariants:
//
//   - Host git runs only after the caller has checked that no guest can write the repository
//     (Guarded), after git's configuration was read and found to come from no file a guest can
//     write, and with every filter switched off that the user did not confirm from the list.
//   - Nothing a guest sends is obeyed: its output is bounded, names are checked, its objects go
//     through index-pack --strict in a separate directory and are added to the repository only when
//     everything the refs need is there; refs change in one transaction, after the objects.
//   - A push interrupted anywhere leaves the guest's branch either unchanged or completely updated.
//
// The packages below it, each importing only those before it:
//
//   - writable: whether a path on the host is in a folder that a guest can write
//   - guestscript: the scripts the guest user runs in the clone
//   - hostgit: runs the host's git, reads its configuration, lists what git would run
//   - outside: what git needs from outside a folder that is shared
//   - remoteconfig: the remote's section in .git/config
//   - compare: the state of the host repository and of the clone, and how they differ
//   - transfer: fetch, push, quarantine, refs kept of deleted clones
//   - onlyinvm: what exists only in the clone
//   - carry: submodules and git-lfs objects
//   - pull: what a pull changes, its hazards, the fast-forward
//
// This package creates the clone, pushes the checked-out branch, and sends uncommitted files
// (sync.go, uncommitted.go). Callers use the rest through the names in names.go. gittest and
// clonetest are for tests.
package gitsync
