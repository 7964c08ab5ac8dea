package state

import (
	"encoding/json"
	"os"
	"path/filepath"
)

// GitStamp is how a repository and its clone were when there was nothing to do.
// It only saves looks: without it, or with one that does not fit, git is asked.
type GitStamp struct {
	Host  string `json:"host"`
	Guest string `json:"guest"`
}

func (d Dir) gitStampPath(vm, tag string) string {
	return filepath.Join(d.VM(vm), "git-"+tag+".json")
}

// GitStamp reads the stamp of a folder in git mode; ok is false without one.
func (d Dir) GitStamp(vm, tag string) (s GitStamp, ok bool) {
	b, err := os.ReadFile(d.gitStampPath(vm, tag))
	return s, err == nil && json.Unmarshal(b, &s) == nil
}

// KeepGitStamp writes it, if it can.
func (d Dir) SaveGitStamp(vm, tag string, s GitStamp) {
	if b, err := json.Marshal(s); err == nil {
		_ = replace(d.gitStampPath(vm, tag), b)
	}
}

// ForgetGitStamp removes it.
func (d Dir) ForgetGitStamp(vm, tag string) { _ = os.Remove(d.gitStampPath(vm, tag)) }

func (d Dir) settingsPath(vm string) string { return filepath.Join(d.VM(vm), "settings.state") }

// Settings reads what a guest was last seen to remember of the settings it got;
// "" if that is not known. It only saves reading it there again, a program more
// at every launch.
func (d Dir) Settings(vm string) string {
	b, _ := os.ReadFile(d.settingsPath(vm))
	return string(b)
}

// KeepSettings writes it, if it can.
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
