package state

import (
	"encoding/json"
	"os"
	"path/filepath"
)

// GitStamp fingerprints a repository and its clone at a time when there was nothing to push or
// fetch. It only saves time: without it, or if it differs, git is run.
type GitStamp struct {
	Host  string `json:"host"`
	Guest string `json:"guest"`
}

func (d Dir) gitStampPath(vm, tag string) string {
	return filepath.Join(d.VM(vm), "git-"+tag+".json")
}

// GitStamp reads the stamp of a folder in git mode; ok is false if there is none.
func (d Dir) GitStamp(vm, tag string) (s GitStamp, ok bool) {
	b, err := os.ReadFile(d.gitStampPath(vm, tag))
	return s, err == nil && json.Unmarshal(b, &s) == nil
}

// SaveGitStamp writes the stamp; errors are ignored.
func (d Dir) SaveGitStamp(vm, tag string, s GitStamp) {
	if b, err := json.Marshal(s); err == nil {
		_ = replace(d.gitStampPath(vm, tag), b)
	}
}

// ForgetGitStamp removes the stamp.
func (d Dir) ForgetGitStamp(vm, tag string) { _ = os.Remove(d.gitStampPath(vm, tag)) }

func (d Dir) settingsPath(vm string) string { return filepath.Join(d.VM(vm), "settings.state") }

// Settings returns the guest's own record of the settings it received, as last read; "" if it
// is not known. It saves reading that record in the guest, which costs one more program at
// every launch.
func (d Dir) Settings(vm string) string {
	b, _ := os.ReadFile(d.settingsPath(vm))
	return string(b)
}

// SaveSettings writes what Settings returns; errors are ignored.
func (d Dir) SaveSettings(vm, s string) {
	_ = replace(d.settingsPath(vm), []byte(s))
}

func (d Dir) forgetStamps(vm string) {
	_ = os.Remove(d.settingsPath(vm))
	l, _ := filepath.Glob(filepath.Join(d.VM(vm), "git-*.json"))
	for _, f := range l {
		_ = os.Remove(f)
	}
}
