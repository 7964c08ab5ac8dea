package provision

import (
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"

	"aivm.dev/aivm/settingsync"
)

// settingsStampPath keeps what a guest was last seen to remember of the
// settings it got. It only saves reading it there again, a program more at
// every launch: without it, or with that of another state, the guest is asked.
func (e *Env) settingsStampPath(vm string) string {
	return filepath.Join(e.SSH.VMDir(vm), "settings.state")
}

func (e *Env) knownSettings(vm string) settingsync.State {
	b, _ := os.ReadFile(e.settingsStampPath(vm))
	return settingsync.State(b)
}

// keepSettings writes down what was read of the guest anew.
func (e *Env) keepSettings(w *want, s settingsync.State) {
	if s == "" || e.DryRun {
		return
	}
	w.settings.wanted.Known = s
	_ = renameio.WriteFile(e.settingsStampPath(w.name), []byte(s), 0o600)
}
