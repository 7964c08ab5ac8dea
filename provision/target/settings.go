package target

import "aivm.dev/aivm/settingsync"

// SyncOptions are the flags that concern settings.
type SyncOptions struct {
	Sync        *bool    // nil: as configured
	Paths       []string // instead of the configured ones
	Overwrite   *bool
	AllowSecret []string
	Extensions  []string
	Profile     string // of the editor
	DataDir     string // its --user-data-dir
}

// Settings are those that are wanted in the guest.
type Settings struct {
	Wanted settingsync.Wanted
	// Early says that there is most likely something to send.
	Early bool
}
