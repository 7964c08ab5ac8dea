// Package transfer fetches and pushes commits between the repository on the host and the clone in a
// guest, over the SSH connection that is already open.
//
// Small packs use go-git's protocol, others the git program. What a guest sends is bounded
// (Limits), goes through index-pack --strict into a separate object store, and is added to the
// repository only when everything the refs need is there. Refs change in one transaction, after the
// objects.
package transfer
