package settings

import (
	"context"
	"path/filepath"
	"slices"

	"aivm.dev/aivm/internal/editor"
	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/provision/codeserver"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/session"
	"aivm.dev/aivm/provision/target"
	"aivm.dev/aivm/settingsync"
)

// Gather returns w with the settings of the host, if settings are wanted. early means that there is
// most likely something to send.
func (e Part) Gather(w *target.Target, o target.SyncOptions, found *editor.Found, early bool) *target.Target {
	s := w.Record.Sync
	on := s.Enabled || len(o.Paths) > 0 || len(o.Extensions) > 0
	if o.Sync != nil {
		on = *o.Sync
	}
	if !on {
		return w
	}
	opts := settingsync.Options{
		Home: e.Home, ConfigHome: e.Getenv("XDG_CONFIG_HOME"), Paths: s.Paths, Overwrite: s.Overwrite, AllowSecret: o.AllowSecret,
		Exclude: s.SettingsExclude, Include: s.SettingsInclude,
		Editors: e.editorPlaces(found, o), Untrusted: untrusted(w),
	}
	if len(o.Paths) > 0 {
		opts.Paths = o.Paths
	}
	opts.Extensions = e.wantedExtensions(w, o, found)
	if w.Folder != nil && found != nil && found.Editor.Kind == editor.Desktop {
		opts.Recommended = settingsync.Recommended(w.Folder.HostPath)
	}
	if o.Overwrite != nil {
		opts.Overwrite = *o.Overwrite
	}
	wanted := settingsync.Gather(opts)
	wanted.Known = settingsync.State(e.State().Settings(w.Name))
	return w.WithSettings(target.Settings{Wanted: *wanted, Early: early})
}

// untrusted returns the folders that a guest can write.
func untrusted(w *target.Target) []string {
	var out []string
	for _, a := range w.Store.Config.Attachments {
		if a.Access != "ro" {
			out = append(out, filepath.Clean(a.HostPath))
		}
	}
	if w.Folder != nil && w.Folder.Access != "ro" {
		out = append(out, w.Folder.HostPath)
	}
	return out
}

// editorPlaces returns the paths of all editors' settings, with the editor in use marked.
func (e Part) editorPlaces(found *editor.Found, o target.SyncOptions) []settingsync.EditorPlace {
	var out []settingsync.EditorPlace
	for _, ed := range editor.Editors() {
		for _, dir := range editor.UserDirs(e.Editor, ed) {
			out = append(out, settingsync.EditorPlace{Name: ed.Name, Dir: dir, Server: ed.ServerDir, Target: ed.MachineSettings()})
		}
	}
	if found == nil || found.Editor.MachineSettings() == "" {
		return out
	}
	if found.Editor.Kind == editor.Browser {
		// A browser editor has no settings on the host: use those of the first editor that has.
		for _, p := range out {
			if file := filepath.Join(p.Dir, "settings.json"); e.Editor.Stat(file) == nil && p.Target != "" {
				return append(out, settingsync.EditorPlace{
					Name: found.Editor.Name, File: file, Server: found.Editor.ServerDir,
					Target: found.Editor.MachineSettings(), Program: codeserver.Home + "/*/bin/code-server", InUse: true,
				})
			}
		}
		return out
	}
	dir := editor.UserDir(e.Editor, *found, o.DataDir)
	used := settingsync.EditorPlace{
		Name: found.Editor.Name, Dir: dir, File: editor.SettingsFile(dir, o.Profile),
		Server: found.Editor.ServerDir, Target: found.Editor.MachineSettings(), InUse: true,
	}
	out = slices.DeleteFunc(out, func(p settingsync.EditorPlace) bool { return p.Dir == dir })
	return append(out, used)
}

// Probe returns the part of the probe script for settings.
func Probe(f *loop.Facts) []guest.Probe {
	if f.Settings == nil {
		return nil
	}
	return []guest.Probe{{Name: "settings", Script: f.Settings.Wanted.Probe()}}
}

// Read compares the guest's answer with what is wanted. Only if the answer is not sufficient, it
// runs another command that reads file contents.
func (e Part) Read(ctx context.Context, c guest.Conn, w *target.Target, f *loop.Facts, answer []byte) {
	s := f.Settings
	if s == nil {
		return
	}
	s.Round, s.Err = nil, nil
	g, err := s.Wanted.ParseGuest(answer)
	if err != nil {
		s.Err = err
		return
	}
	if g.State != "" && !e.DryRun {
		s.Wanted.Known = g.State
		e.State().SaveSettings(w.Name, string(g.State))
	}
	s.Round = settingsync.NewRound(s.Wanted, g, e.Now())
	if !s.Round.NeedsDetail {
		return
	}
	out, err := c.Probe(ctx, []guest.Probe{{Name: "settings", Script: s.Wanted.DetailProbe()}})
	if err == nil {
		g, err = s.Wanted.ParseGuest(out["settings"])
	}
	if err != nil {
		s.Round, s.Err = nil, e.ExplainLost(ctx, w.Name, err)
		return
	}
	s.Round = settingsync.NewRound(s.Wanted, g, e.Now())
}

// Plan returns the actions that send settings. They never prevent opening the folder: Say reports
// errors at the end.
func (e Part) Plan(w *target.Target, f *loop.Facts) []plan.Action {
	s := f.Settings
	if s == nil || s.Round == nil {
		return nil
	}
	out := e.planExtensions(f)
	if s.Round.Empty() {
		return out
	}
	a := plan.Action{
		ID: "settings.send", Why: "record in the guest which settings were sent", Timing: "settings",
		Shows: []string{"write ~/.local/state/aivm/sync in the guest"},
		Do:    func(ctx context.Context) error { return e.Send(ctx, w, f) },
	}
	if targets := s.Round.Targets(); len(targets) > 0 {
		a.Why = "copy your settings to the guest: " + session.Few(targets)
		a.Shows = nil
		for _, b := range s.Round.Report.Backups {
			a.Shows = append(a.Shows, "keep the guest's file as "+b)
		}
		for _, t := range targets {
			a.Shows = append(a.Shows, "write "+t+" in the guest")
		}
	}
	return append([]plan.Action{a}, out...)
}

// Say reports what was done about settings after a launch, without what was reported before.
func (e Part) Say(f *loop.Facts) {
	s := f.Settings
	switch {
	case s == nil:
		return
	case s.Err != nil:
		e.UI.Warn("your settings were not copied to the guest: %v", s.Err)
		return
	case s.Round == nil:
		return
	}
	r := s.Report()
	for _, p := range s.Round.NewProblems {
		e.UI.Warn("settings: %s", p)
		if p.Hint != "" {
			e.UI.Warn("%s", p.Hint)
		}
	}
	for _, b := range r.Backups {
		e.UI.Say("Settings: the guest's file was kept as %s", b)
	}
	for _, k := range r.Conflicts {
		e.UI.Say("Settings: changed on both sides, so the guest's value was kept: %s", k)
	}
	for _, n := range s.Round.Notes {
		e.UI.Say("Settings: %s", n)
	}
	for _, d := range r.Dropped {
		e.UI.Say("Settings: no longer listed, but still in the guest: %s", d)
	}
	if n := len(r.Copied) + len(r.Merged); n > 0 {
		e.UI.Say("Settings: %s", session.Few(append(slices.Clone(r.Copied), r.Merged...)))
	}
}

// SyncResult is the output of `vm sync-settings --json`.
type SyncResult struct {
	Schema int    `json:"schema"`
	VM     string `json:"vm"`
	settingsync.Report
	Notes []string `json:"-"`
}

// EmptyLists replaces nil lists, which would be null in JSON, by empty ones.
func EmptyLists(r settingsync.Report) settingsync.Report {
	for _, l := range []*[]string{&r.Copied, &r.Missing, &r.Kept, &r.Backups, &r.Merged, &r.Conflicts, &r.LeftOut, &r.GitLeftOut, &r.GitSSH, &r.Dropped} {
		if *l == nil {
			*l = []string{}
		}
	}
	if r.Problems == nil {
		r.Problems = []settingsync.Problem{}
	}
	return r
}
