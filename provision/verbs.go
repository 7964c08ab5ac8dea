package provision

import (
	"context"

	"aivm.dev/aivm/provision/clones"
	"aivm.dev/aivm/provision/editors"
	"aivm.dev/aivm/provision/images"
	"aivm.dev/aivm/provision/legacy03"
	"aivm.dev/aivm/provision/snapshots"
	"aivm.dev/aivm/provision/walls"
)

// Verbs that one part does alone.

// Adopt takes over a VM that aivm 0.3 made.
func (e *Env) Adopt(ctx context.Context, o AdoptOptions) (VMResult, error) {
	return legacy03.For(e.Loop).Adopt(ctx, o)
}

// Editors says which editors there are and how each would be started.
func (e *Env) Editors() ([]EditorFact, error) { return editors.For(e.Loop).Editors() }

// GitPush pushes the branch of the host to the guest's clone.
func (e *Env) GitPush(ctx context.Context, o GitOptions) (GitResult, error) {
	return clones.For(e.Loop).GitPush(ctx, o)
}

// GitFetch fetches what the guest committed.
func (e *Env) GitFetch(ctx context.Context, o GitOptions) (GitResult, error) {
	return clones.For(e.Loop).GitFetch(ctx, o)
}

// GitPull fast-forwards the host's branch to what the guest committed on it.
func (e *Env) GitPull(ctx context.Context, o GitOptions) (GitResult, error) {
	return clones.For(e.Loop).GitPull(ctx, o)
}

// GitStatus compares the repository with its clone. A VM that is off stays off.
func (e *Env) GitStatus(ctx context.Context, o GitOptions) (GitResult, error) {
	return clones.For(e.Loop).GitStatus(ctx, o)
}

// GitDiff shows what the guest's branch changed since it left the host's.
func (e *Env) GitDiff(ctx context.Context, o GitOptions) error {
	return clones.For(e.Loop).GitDiff(ctx, o)
}

// GitLog lists the guest's commits that are not on the host's branch.
func (e *Env) GitLog(ctx context.Context, o GitOptions) error {
	return clones.For(e.Loop).GitLog(ctx, o)
}

// FirewallStatus looks at the rules of a network, or of all.
func (e *Env) FirewallStatus(ctx context.Context, name string, sudo bool) (FirewallResult, error) {
	return walls.For(e.Loop).Status(ctx, name, sudo)
}

// FirewallApply puts the rules of a network, or of all, in place.
func (e *Env) FirewallApply(ctx context.Context, name string) (FirewallResult, error) {
	return walls.For(e.Loop).ApplyRules(ctx, name)
}

// FirewallRemove takes the rules of a network away.
func (e *Env) FirewallRemove(ctx context.Context, name string) (FirewallResult, error) {
	return walls.For(e.Loop).RemoveRules(ctx, name)
}

// NetworkStatus looks at a network, or at all. sudo lets libvirt be asked
// through root.
func (e *Env) NetworkStatus(ctx context.Context, name string, sudo bool) (NetworksStatus, error) {
	return walls.For(e.Loop).NetworkStatus(ctx, name, sudo)
}

// CreateNetwork makes a network, with its firewall, before there is a VM for it.
func (e *Env) CreateNetwork(ctx context.Context, name string) (NetworkCreated, error) {
	return walls.For(e.Loop).Create(ctx, name)
}

// DestroyNetwork takes a network away: libvirt's, its firewall, its record.
func (e *Env) DestroyNetwork(ctx context.Context, name string, force bool) (NetworkResult, error) {
	return walls.For(e.Loop).Destroy(ctx, name, force)
}

// Images lists the cache, what lies in the pools, and the catalogue.
func (e *Env) Images(ctx context.Context) (ImageListing, error) {
	return images.For(e.Loop).List(ctx)
}

// VerifyImages reads images of the cache, all of them without words, and compares
// their digests.
func (e *Env) VerifyImages(ctx context.Context, words []string) ([]Verified, error) {
	return images.For(e.Loop).Verify(ctx, words)
}

// RemoveImages takes images out of the cache and the pools: those named, or all
// that no VM uses.
func (e *Env) RemoveImages(ctx context.Context, words []string, unused bool) (ImagesRemoved, error) {
	return images.For(e.Loop).RemoveImages(ctx, words, unused)
}

// FetchImage gets an image into the cache and does nothing else.
func (e *Env) FetchImage(ctx context.Context, name string, again bool) (ImageFetched, error) {
	return images.For(e.Loop).Fetch(ctx, name, again)
}

// ImageWords are the values of --image that can be completed.
func (e *Env) ImageWords() []string { return images.For(e.Loop).ImageWords() }

// Snapshot keeps the disk of a VM under a name.
func (e *Env) Snapshot(ctx context.Context, o SnapshotOptions) (SnapshotResult, error) {
	return snapshots.For(e.Loop).Snapshot(ctx, o)
}

// Rollback puts the disk of a VM back to a snapshot, and keeps the present first.
func (e *Env) Rollback(ctx context.Context, o SnapshotOptions) (SnapshotResult, error) {
	return snapshots.For(e.Loop).Rollback(ctx, o)
}

// SnapshotDelete gives a snapshot up.
func (e *Env) SnapshotDelete(ctx context.Context, o SnapshotOptions) (SnapshotResult, error) {
	return snapshots.For(e.Loop).SnapshotDelete(ctx, o)
}

// SnapshotListing reads the snapshots of a VM and what its disk takes.
func (e *Env) SnapshotListing(ctx context.Context, vm string) (SnapshotList, error) {
	return snapshots.For(e.Loop).SnapshotListing(ctx, vm)
}

// Prepare makes a guest image of a VM.
func (e *Env) Prepare(ctx context.Context, o PrepareOptions) (Prepared, error) {
	return snapshots.For(e.Loop).Prepare(ctx, o)
}
