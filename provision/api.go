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

// The parts' option and result types that cmd uses.
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

// The outcomes of verbs about a VM.
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

// How the git verbs compare a repository with its clone.
const (
	GitClone     = gitsync.Clone
	GitSame      = gitsync.Same
	GitUnseen    = gitsync.Unseen
	GitVMAhead   = gitsync.VMAhead
	GitHostAhead = gitsync.HostAhead
	GitDiverged  = gitsync.Diverged
)

// The states of a Check that are printed with their own sign.
const (
	StateOK  = host.OK
	StateBad = host.Bad
)

// Builders returns the functions that build images; the privileged helper runs them.
func Builders() map[string]root.BuildFunc { return session.Builders() }

// StorePath returns the path of the config; flag is --config, "" for the default path.
func StorePath(flag string) (string, error) { return session.StorePath(flag) }

// The texts of the git verbs' results.
var (
	Compared = clones.Compared
	Commits  = clones.Commits
	Counted  = clones.Counted
	Short    = clones.Short
	Entries  = clones.Entries
)
