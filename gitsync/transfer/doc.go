// Package transfer moves commits between the repository on this machine and the
// clone in a guest, over the connection that is already there.
//
// Small packs go through the protocol of go-git, others through the git program.
// What a guest sends is bounded (Limits), goes through index-pack --strict in an
// object store of its own, and becomes part of the repository only when all that
// the refs need is there. Refs change in one transaction, after the objects.
package transfer
