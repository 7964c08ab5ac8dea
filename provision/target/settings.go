package target

import "aivm.dev/aivm/settingsync"

// SyncOptions are the flags for copying settings.
type SyncOptions struct {
	Sync        *bool    // nil: as configured
	Paths       []string // instead of the configured paths
	Overwrite   *bool
	AllowSecret []string
	Extensions  []string
	Profile     string // of the editor
	DataDir     string // its --user-data-dir
}

// Settings holds the settings to copy into the guest.
type Settings struct {
	Wanted settingsync.Wanted
	// Early: there is most likely something to send, so start the receiving program early.
	Early bool
}
