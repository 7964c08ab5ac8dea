package provision

import (
	"context"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/provision/clones"
	"aivm.dev/aivm/provision/editors"
	"aivm.dev/aivm/provision/images"
	"aivm.dev/aivm/provision/legacy03"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/snapshots"
	"aivm.dev/aivm/provision/walls"
)

// Verbs that concern only one part.

// Adopt adopts a VM that aivm 0.3 made.
func (e *Env) Adopt(ctx context.Context, o AdoptOptions) (VMResult, error) {
	return legacy03.For(e.Loop).Adopt(ctx, o)
}

// Editors lists the editors with how each would be started.
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

// FirewallStatus compares the rules of a network, or of all networks, with the wanted ones.
func (e *Env) FirewallStatus(ctx context.Context, name string, sudo bool) (FirewallResult, error) {
	return walls.For(e.Loop).Status(ctx, name, sudo)
}

// FirewallApply loads the rules of a network, or of all networks.
func (e *Env) FirewallApply(ctx context.Context, name string) (FirewallResult, error) {
	return walls.For(e.Loop).ApplyRules(ctx, name)
}

// FirewallRemove removes the rules of a network.
func (e *Env) FirewallRemove(ctx context.Context, name string) (FirewallResult, error) {
	return walls.For(e.Loop).RemoveRules(ctx, name)
}

// NetworkStatus returns the state of a network, or of all networks. sudo: connect to libvirt
// through the privileged helper if necessary.
func (e *Env) NetworkStatus(ctx context.Context, name string, sudo bool) (NetworksStatus, error) {
	return walls.For(e.Loop).NetworkStatus(ctx, name, sudo)
}

// CreateNetwork creates a network with its firewall, without a VM.
func (e *Env) CreateNetwork(ctx context.Context, name string) (NetworkCreated, error) {
	return walls.For(e.Loop).Create(ctx, name)
}

// DestroyNetwork removes a network: libvirt's, its firewall, its record.
func (e *Env) DestroyNetwork(ctx context.Context, name string, force bool) (NetworkResult, error) {
	return walls.For(e.Loop).Destroy(ctx, name, force)
}

// Images lists the images in the cache and in the pools, and the catalogue.
func (e *Env) Images(ctx context.Context) (ImageListing, error) {
	return images.For(e.Loop).List(ctx)
}

// VerifyImages reads the images that words name, or all images of the cache, and compares their
// digests.
func (e *Env) VerifyImages(ctx context.Context, words []string) ([]Verified, error) {
	return images.For(e.Loop).Verify(ctx, words)
}

// RemoveImages removes images from the cache and the pools: those that words name, or all that no
// VM uses.
func (e *Env) RemoveImages(ctx context.Context, words []string, unused bool) (ImagesRemoved, error) {
	return images.For(e.Loop).RemoveImages(ctx, words, unused)
}

// FetchImage gets an image into the cache and does nothing else.
func (e *Env) FetchImage(ctx context.Context, name string, again bool) (ImageFetched, error) {
	return images.For(e.Loop).Fetch(ctx, name, again)
}

// ImageWords returns the values of --image for shell completion.
func (e *Env) ImageWords() []string { return images.For(e.Loop).ImageWords() }

// Snapshot takes a snapshot of a VM's disk.
func (e *Env) Snapshot(ctx context.Context, o SnapshotOptions) (SnapshotResult, error) {
	return snapshots.For(e.Loop).Snapshot(ctx, o)
}

// Rollback returns the disk of a VM to a snapshot, after a snapshot of the present disk.
func (e *Env) Rollback(ctx context.Context, o SnapshotOptions) (SnapshotResult, error) {
	return snapshots.For(e.Loop).Rollback(ctx, o)
}

// SnapshotDelete deletes a snapshot.
func (e *Env) SnapshotDelete(ctx context.Context, o SnapshotOptions) (SnapshotResult, error) {
	return snapshots.For(e.Loop).SnapshotDelete(ctx, o)
}

// SnapshotListing reads the snapshots of a VM and the space that its disk uses.
func (e *Env) SnapshotListing(ctx context.Context, vm string) (SnapshotList, error) {
	return snapshots.For(e.Loop).SnapshotListing(ctx, vm)
}

// Prepare creates a guest image from a VM.
func (e *Env) Prepare(ctx context.Context, o PrepareOptions) (Prepared, error) {
	return snapshots.For(e.Loop).Prepare(ctx, o)
}

// SnapshotNames returns the names and times of a VM's snapshots, newest first, for completion.
func (e *Env) SnapshotNames(ctx context.Context, vm string) (names, times []string) {
	return snapshots.For(e.Loop).Names(ctx, vm)
}

// Cloned reports whether an attached folder is in mode git.
func Cloned(a config.Attachment) bool { return share.Recorded(a).Mode == share.Git }
