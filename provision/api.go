package provision

import (
	"aivm.dev/aivm/gitsync"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/provision/clones"
	"aivm.dev/aivm/provision/editors"
	"aivm.dev/aivm/provision/folders"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/images"
	"aivm.dev/aivm/provision/legacy03"
	"aivm.dev/aivm/provision/session"
	"aivm.dev/aivm/provision/settings"
	"aivm.dev/aivm/provision/snapshots"
	"aivm.dev/aivm/provision/target"
	"aivm.dev/aivm/provision/walls"
)

// What cmd says and gets in the parts' own words.
type (
	Options         = session.Options
	Seams           = session.Seams
	DryRun          = session.DryRun
	FirewallState   = session.FirewallState
	FolderOptions   = target.FolderOptions
	SyncOptions     = target.SyncOptions
	CodeOptions     = editors.CodeOptions
	DetachOptions   = folders.DetachOptions
	GitOptions      = clones.Options
	SnapshotOptions = snapshots.SnapshotOptions
	PrepareOptions  = snapshots.PrepareOptions
	AdoptOptions    = legacy03.AdoptOptions
	SnapshotList    = snapshots.SnapshotList
	ImageListing    = images.ImageListing
	Verified        = images.Verified
	NetworksStatus  = walls.NetworksStatus
	FirewallResult  = walls.Result
	EditorFact      = editors.EditorFact
	Check           = host.Check

	VMResult       = session.VMResult
	CodeResult     = editors.CodeResult
	GitResult      = clones.GitResult
	SyncResult     = settings.SyncResult
	NetworkCreated = walls.Created
	NetworkResult  = walls.NetworkResult
	ImagesRemoved  = images.Removed
	ImageFetched   = images.Fetched
	SnapshotResult = snapshots.SnapshotResult
	Prepared       = snapshots.Prepared
)

// What a verb about a VM came to.
const (
	Started       = session.Started
	Stopped       = session.Stopped
	WasOff        = session.WasOff
	Answers       = session.Answers
	Deleted       = session.Deleted
	WasDeleted    = session.WasDeleted
	Adopted       = session.Adopted
	AdoptedBefore = session.AdoptedBefore
)

// What the git verbs say of a repository and its clone.
const (
	GitClone     = gitsync.Clone
	GitSame      = gitsync.Same
	GitUnseen    = gitsync.Unseen
	GitVMAhead   = gitsync.VMAhead
	GitHostAhead = gitsync.HostAhead
	GitDiverged  = gitsync.Diverged
)

// The states of a Check that have a sign of their own.
const (
	StateOK  = host.OK
	StateBad = host.Bad
)

// Builders are the images that can be built here; the privileged helper runs
// them.
func Builders() map[string]root.BuildFunc { return session.Builders() }

// StorePath is where the config is: flag, "" for the default place.
func StorePath(flag string) (string, error) { return session.StorePath(flag) }

// What a result of the git verbs says in words.
var (
	Compared = clones.Compared
	Commits  = clones.Commits
	Counted  = clones.Counted
	Short    = clones.Short
	Entries  = clones.Entries
)
