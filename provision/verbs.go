package provision

import (
	"context"
	"errors"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/clones"
	"aivm.dev/aivm/provision/editors"
	"aivm.dev/aivm/provision/images"
	"aivm.dev/aivm/provision/legacy03"
	"aivm.dev/aivm/provision/settings"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/snapshots"
	"aivm.dev/aivm/provision/target"
	"aivm.dev/aivm/provision/walls"
	"aivm.dev/aivm/settingsync"
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

// SyncSettings copies the settings into one VM (`vm sync-settings`) and reports every file.
func (e *Env) SyncSettings(ctx context.Context, name string, editorName string, o target.SyncOptions) (settings.SyncResult, error) {
	var none settings.SyncResult
	e.Timing = ui.NewTiming("ssh", "settings")
	w, err := e.VM(ctx, name, target.Cwd(), false)
	if err != nil {
		return none, err
	}
	found, _, err := editors.For(e.Loop).Choose(editorName, w)
	if err != nil {
		return none, err
	}
	if o.Sync == nil {
		on := true
		o.Sync = &on
	}
	w, f, err := e.Converge(ctx, settings.For(e.Loop).Gather(w, o, found, true).WithGuest())
	if err != nil {
		return none, err
	}
	defer f.Close()
	defer f.Settings.StopReceiver()
	if f.Conn == nil {
		return none, ui.Refused("VM %s does not run, so no settings can be copied into it", w.Name).
			Hint(ui.Cmd("aivm vm up "+w.Name), ui.CmdFor("then", e.Rerun))
	}
	s := f.Settings
	if s.Err != nil {
		failed, why := ui.Failed("your settings were not copied into the guest: %w", s.Err), (*ui.Error)(nil)
		if errors.As(s.Err, &why) {
			failed.Hint(why.Hints...)
		}
		return none, failed.Hint(ui.CmdFor("try again", e.Rerun))
	}
	report := s.Report()
	r := settings.SyncResult{Schema: 1, VM: w.Name, Report: settings.EmptyLists(report), Notes: s.Round.Notes}
	if len(report.Problems) > 0 {
		e := ui.Failed("%d of your settings were not copied: %s", distinctPaths(report.Problems), report.Problems[0])
		for _, p := range report.Problems {
			if p.Hint != "" {
				e.Hint(ui.Remark(p.Hint))
			}
		}
		return r, e
	}
	return r, nil
}

// distinctPaths returns how many files the problems are about: a file with several secrets has several.
func distinctPaths(problems []settingsync.Problem) int {
	paths := map[string]bool{}
	for _, p := range problems {
		paths[p.Path] = true
	}
	return len(paths)
}
