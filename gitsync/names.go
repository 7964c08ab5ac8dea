package gitsync

import (
	"context"

	"aivm.dev/aivm/gitsync/carry"
	"aivm.dev/aivm/gitsync/compare"
	"aivm.dev/aivm/gitsync/hostgit"
	"aivm.dev/aivm/gitsync/onlyinvm"
	"aivm.dev/aivm/gitsync/pull"
	"aivm.dev/aivm/gitsync/remoteconfig"
	"aivm.dev/aivm/gitsync/transfer"
	"aivm.dev/aivm/internal/guest"
)

// What git mode is about, by the package that has it.
type (
	Repo        = hostgit.Repo
	Filter      = hostgit.Filter
	StatusEntry = hostgit.StatusEntry
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

// Clone is the state of a guest that has the clone.
const Clone = compare.Clone

// How the guest's branch can stand to the host's.
const (
	Same      = compare.Same
	HostAhead = compare.HostAhead
	VMAhead   = compare.VMAhead
	Diverged  = compare.Diverged
	Missing   = compare.Missing
	Unseen    = compare.Unseen
)

// Find returns the repository that folder lies in. folder is absolute and free of
// links.
func Find(folder string) (Repo, error) { return hostgit.Find(folder) }

// HostStatus lists what is not committed on the host.
func HostStatus(ctx context.Context, r Repo) ([]StatusEntry, error) {
	return hostgit.Uncommitted(ctx, r)
}

// FindRemote finds the section of the clone in a repository's configuration, or
// the name a new one gets.
func FindRemote(r Repo, vm, dir string) (Remote, error) { return remoteconfig.Find(r, vm, dir) }

// Observe looks at the repository. It changes nothing.
func Observe(ctx context.Context, r Repo, remote string) (Host, error) {
	return compare.Observe(ctx, r, remote)
}

// GuestProbe is the piece of the probe script that looks at the clone in dir.
func GuestProbe(dir string) string { return compare.GuestProbe(dir) }

// ParseGuest reads the probe's answer.
func ParseGuest(b []byte) (Guest, error) { return compare.ParseGuest(b) }

// DefaultDst is where a clone goes in the guest.
func DefaultDst(top, hostHome, user string) string { return compare.DefaultDst(top, hostHome, user) }

// Relate compares the branches as far as the host's objects tell.
func Relate(h Host, g Guest) Relation { return compare.Relate(h, g) }

// News are the branches of the guest that are not where they were last seen.
func News(h Host, g Guest) map[string]string { return compare.News(h, g) }

// Updates are the refs of the guest that a push of the host's branch sets.
func Updates(h Host, g Guest) (ups []RefUpdate, kept []string) { return compare.Updates(h, g) }

// Follows reports whether the guest should check out the host's branch.
func Follows(h Host, g Guest) bool { return compare.Follows(h, g) }

// Stamp is a digest of all that a look at the repository hangs on.
func Stamp(r Repo, remote string) (stamp string, ok bool) { return compare.Stamp(r, remote) }

// GuestStamp is a digest of what the guest's probe said.
func GuestStamp(answer []byte) string { return compare.GuestStamp(answer) }

// Fetch brings what the guest committed into refs/remotes/REMOTE/ and nowhere
// else.
func Fetch(ctx context.Context, p Peer, h *Host, g Guest) (moved []Fetched, notes []string, err error) {
	return transfer.Fetch(ctx, p, h, g)
}

// KeepTracked keeps what was fetched from a clone that is gone, and returns the
// refs it made.
func KeepTracked(ctx context.Context, h Host) ([]string, error) { return transfer.KeepTracked(ctx, h) }

// OnlyProbes ask for what FindOnly needs to know of the clone in dir.
func OnlyProbes(dir string) []guest.Probe { return onlyinvm.Probes(dir) }

// FindOnly says what the clone has that the repository h lacks.
func FindOnly(ctx context.Context, h Host, hostKnown bool, g Guest, news map[string]string, said map[string][]byte, why error) (Only, error) {
	return onlyinvm.Find(ctx, h, hostKnown, g, news, said, why)
}

// CarrySubmodules brings the submodules of the commit that was pushed to the clone.
func CarrySubmodules(ctx context.Context, p Peer, h Host) (carried, missing []string, err error) {
	return carry.Submodules(ctx, p, h)
}

// CarryLFS brings the large files of git-lfs that are here to the clone.
func CarryLFS(ctx context.Context, p Peer, h Host) (missing []string, err error) {
	return carry.LFS(ctx, p, h)
}

// Changes lists what lies between two commits.
func Changes(ctx context.Context, h Host, from, to string) ([]Change, error) {
	return pull.Changes(ctx, h, from, to)
}

// Base is the commit from which the host's branch and the guest's went on.
func Base(ctx context.Context, h Host) (string, error) { return pull.Base(ctx, h) }

// Size is how many bytes of files the changes bring.
func Size(ctx context.Context, h Host, cs []Change) (int64, error) { return pull.Size(ctx, h, cs) }

// Hazards are the files among changes that this machine is going to run or obey.
func Hazards(ctx context.Context, h Host, cs []Change, runs func(string) bool) ([]string, error) {
	return pull.Hazards(ctx, h, cs, runs)
}

// Filters are those that the person's own git would start to take over changes.
func Filters(ctx context.Context, h Host, to string, cs []Change) ([]Filter, error) {
	return pull.Filters(ctx, h, to, cs)
}

// Agreement is a name for what a pull brings and would run.
func Agreement(from, to string, hazards []string, fs []Filter) string {
	return pull.Agreement(from, to, hazards, fs)
}

// Pull fast-forwards the host's branch, and its files, to what was fetched.
func Pull(ctx context.Context, h *Host, agreed []Filter) error {
	return pull.FastForward(ctx, h, agreed)
}
