package provision

import (
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/provision/clones"
	"aivm.dev/aivm/provision/editors"
	"aivm.dev/aivm/provision/folders"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/images"
	"aivm.dev/aivm/provision/legacy03"
	"aivm.dev/aivm/provision/session"
	"aivm.dev/aivm/provision/snapshots"
	"aivm.dev/aivm/provision/target"
	"aivm.dev/aivm/provision/walls"
)

// What cmd says and gets in the parts' own words.
type (
	Options         = session.Options
	Seams           = session.Seams
	Wallkeeper      = session.Wallkeeper
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

// IsDry reports whether a verb ended because it was only a dry run.
func IsDry(err error) bool { return session.IsDry(err) }
