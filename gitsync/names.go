package gitsync

import (
	"context"

	"aivm.dev/aivm/gitsync/carry"
	"aivm.dev/aivm/gitsync/compare"
	"aivm.dev/aivm/gitsync/hostgit"
	"aivm.dev/aivm/gitsync/onlyinvm"
	"aivm.dev/aivm/gitsync/outside"
	"aivm.dev/aivm/gitsync/pull"
	"aivm.dev/aivm/gitsync/remoteconfig"
	"aivm.dev/aivm/gitsync/transfer"
	"aivm.dev/aivm/internal/guest"
)

// The types of git mode, each from the package that defines it.
type (
	Repo        = hostgit.Repo
	Filter      = hostgit.Filter
	StatusEntry = hostgit.StatusEntry
	Need        = outside.Need
	OutsideKind = outside.Kind
	Remote      = remoteconfig.Remote
	Host        = compare.Host
	Guest       = compare.Guest
	GuestState  = compare.GuestState
	Relation    = compare.Relation
	RefUpdate   = compare.RefUpdate
	Peer        = transfer.Peer
	Limits      = transfer.Limits
	Fetched     = transfer.Fetched
	Sent        = transfer.Sent
	Only        = onlyinvm.Only
	Change      = pull.Change
)

// Clone is the GuestState of a guest in which the clone exists.
const Clone = compare.Clone

// What git needs a directory outside a folder for.
const (
	OutsideWorktree  = outside.Worktree
	OutsideSubmodule = outside.Submodule
	OutsideParent    = outside.Parent
	OutsideObjects   = outside.Objects
)

// The possible relations of the guest's branch to the host's.
const (
	Same      = compare.Same
	HostAhead = compare.HostAhead
	VMAhead   = compare.VMAhead
	Diverged  = compare.Diverged
	Missing   = compare.Missing
	Unseen    = compare.Unseen
)

// Find returns the repository that contains folder, an absolute path without symbolic links.
func Find(folder string) (Repo, error) { return hostgit.Find(folder) }

// FindOutside returns what git needs from outside a folder to work in it, an absolute path
// without symbolic links. A guest may have written the folder.
func FindOutside(folder string) []Need { return outside.Find(folder) }

// HostStatus lists the uncommitted files of the host's work tree.
func HostStatus(ctx context.Context, r Repo) ([]StatusEntry, error) {
	return hostgit.Uncommitted(ctx, r)
}

// FindRemote finds the clone's section in a repository's configuration, or chooses the name of a
// new one.
func FindRemote(r Repo, vm, dir string) (Remote, error) { return remoteconfig.Find(r, vm, dir) }

// Observe reads the state of the host repository. It changes nothing.
func Observe(ctx context.Context, r Repo, remote string) (Host, error) {
	return compare.Observe(ctx, r, remote)
}

// GuestProbe returns the part of the probe script that reads the clone in dir.
func GuestProbe(dir string) string { return compare.GuestProbe(dir) }

// ParseGuest parses the output of GuestProbe.
func ParseGuest(b []byte) (Guest, error) { return compare.ParseGuest(b) }

// DefaultDst returns the default guest path of a clone.
func DefaultDst(top, hostHome, user string) string { return compare.DefaultDst(top, hostHome, user) }

// Relate compares the host's branch with the guest's, as far as the host has the objects.
func Relate(h Host, g Guest) Relation { return compare.Relate(h, g) }

// News returns the guest's branches that moved since they were last fetched.
func MovedBranches(h Host, g Guest) map[string]string { return compare.MovedBranches(h, g) }

// Updates returns the guest refs that a push of the host's branch sets.
func Updates(h Host, g Guest) (ups []RefUpdate, kept []string) { return compare.Updates(h, g) }

// ShouldSwitch reports whether the guest should check out the host's branch.
func ShouldSwitch(h Host, g Guest) bool { return compare.ShouldSwitch(h, g) }

// Stamp fingerprints everything Observe's result depends on.
func Stamp(r Repo, remote string) (stamp string, ok bool) { return compare.Stamp(r, remote) }

// GuestStamp returns a digest of the output of GuestProbe.
func GuestStamp(answer []byte) string { return compare.GuestStamp(answer) }

// Fetch fetches the guest's commits into refs/remotes/REMOTE/ and nowhere else.
func Fetch(ctx context.Context, p Peer, h *Host, g Guest) (moved []Fetched, notes []string, err error) {
	return transfer.Fetch(ctx, p, h, g)
}

// KeepTracked keeps the commits fetched from a deleted clone under new refs, and returns these
// refs.
func KeepTracked(ctx context.Context, h Host) ([]string, error) { return transfer.KeepTracked(ctx, h) }

// OnlyProbes returns the probes whose output FindOnly needs about the clone in dir.
func OnlyProbes(dir string) []guest.Probe { return onlyinvm.Probes(dir) }

// FindOnly lists what exists only in the clone and not in the host repository h.
func FindOnly(ctx context.Context, h Host, hostKnown bool, g Guest, news map[string]string, answers map[string][]byte, why error) (Only, error) {
	return onlyinvm.Find(ctx, h, hostKnown, g, news, answers, why)
}

// CarrySubmodules sends the submodules of the pushed commit to the clone.
func CarrySubmodules(ctx context.Context, p Peer, h Host) (carried, missing []string, err error) {
	return carry.Submodules(ctx, p, h)
}

// CarryLFS sends the git-lfs objects that exist on the host to the clone.
func CarryLFS(ctx context.Context, p Peer, h Host) (missing []string, err error) {
	return carry.LFS(ctx, p, h)
}

// Changes lists the files that differ between two commits.
func Changes(ctx context.Context, h Host, from, to string) ([]Change, error) {
	return pull.Changes(ctx, h, from, to)
}

// Base returns the merge base of the host's branch and the guest's.
func Base(ctx context.Context, h Host) (string, error) { return pull.Base(ctx, h) }

// Size returns how many bytes of file content the changes add.
func Size(ctx context.Context, h Host, cs []Change) (int64, error) { return pull.Size(ctx, h, cs) }

// Hazards lists the host-executed files among the changes.
func Hazards(ctx context.Context, h Host, cs []Change, runs func(string) bool) ([]string, error) {
	return pull.Hazards(ctx, h, cs, runs)
}

// Filters lists the filters that the user's own git would start to check out the changes.
func Filters(ctx context.Context, h Host, to string, cs []Change) ([]Filter, error) {
	return pull.Filters(ctx, h, to, cs)
}

// Agreement returns a name for the changes a pull makes and the programs it would start.
func ConsentToken(from, to string, hazards []string, fs []Filter) string {
	return pull.ConsentToken(from, to, hazards, fs)
}

// Pull fast-forwards the host's branch and work tree to the fetched commit.
func Pull(ctx context.Context, h *Host, allowed []Filter) error {
	return pull.FastForward(ctx, h, allowed)
}
