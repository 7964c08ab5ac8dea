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

// Gather is w with what this machine has to offer, if settings are wanted. early
// says that there is most likely something to send.
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
		Home: e.Home, Paths: s.Paths, Overwrite: s.Overwrite, AllowSecret: o.AllowSecret,
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

// untrusted are the folders some guest can write.
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

// editorPlaces is the table of editors as far as settings are concerned, with
// the one in use marked.
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
		// It has no settings on this machine: those of the first editor that has.
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

// Probe is the guest's piece of the one probe script.
func Probe(f *loop.Facts) []guest.Probe {
	if f.Settings == nil {
		return nil
	}
	return []guest.Probe{{Name: "settings", Script: f.Settings.Wanted.Probe()}}
}

// Read compares what the guest says with what is wanted. Only where
// that is not enough, contents are asked for, in an exec of its own.
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
	s.Round = settingsync.Make(s.Wanted, g, e.Now())
	if !s.Round.Unsure {
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
	s.Round = settingsync.Make(s.Wanted, g, e.Now())
}

// Plan is what has to be sent. Settings never keep a folder from being
// opened: what goes wrong is said at the end.
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
		ID: "settings.send", Why: "remember in the guest what it has of your settings", Timing: "settings",
		Shows: []string{"write ~/.local/state/aivm/sync in the guest"},
		Do:    func(ctx context.Context) error { return e.Send(ctx, w, f) },
	}
	if targets := s.Round.Targets(); len(targets) > 0 {
		a.Why = "bring your settings into the guest: " + session.Few(targets)
		a.Shows = nil
		for _, b := range s.Round.Report.Backups {
			a.Shows = append(a.Shows, "keep what the guest has as "+b)
		}
		for _, t := range targets {
			a.Shows = append(a.Shows, "write "+t+" in the guest")
		}
	}
	return append([]plan.Action{a}, out...)
}

// Say tells what was done about settings after a launch: only what is
// new.
func (e Part) Say(f *loop.Facts) {
	s := f.Settings
	switch {
	case s == nil:
		return
	case s.Err != nil:
		e.UI.Warn("your settings were not brought into the guest: %v", s.Err)
		return
	case s.Round == nil:
		return
	}
	r := s.Report()
	for _, p := range s.Round.Fresh {
		e.UI.Warn("settings: %s", p)
		if p.Hint != "" {
			e.UI.Warn("%s", p.Hint)
		}
	}
	for _, b := range r.Backups {
		e.UI.Say("Settings: the guest's own is kept as %s", b)
	}
	for _, k := range r.Conflicts {
		e.UI.Say("Settings: changed on both sides, the guest keeps its own: %s", k)
	}
	for _, n := range s.Round.Notes {
		e.UI.Say("Settings: %s", n)
	}
	for _, d := range r.Dropped {
		e.UI.Say("Settings: no longer listed, and left in the guest: %s", d)
	}
	if n := len(r.Copied) + len(r.Merged); n > 0 {
		e.UI.Say("Settings: %s", session.Few(append(slices.Clone(r.Copied), r.Merged...)))
	}
}

// SyncResult is what `vm sync-settings --json` prints.
type SyncResult struct {
	Schema int    `json:"schema"`
	VM     string `json:"vm"`
	settingsync.Report
	Notes []string `json:"-"`
}

// Whole makes lists of what would be null.
func Whole(r settingsync.Report) settingsync.Report {
	for _, l := range []*[]string{&r.Copied, &r.Missing, &r.Kept, &r.Backups, &r.Merged, &r.Conflicts, &r.LeftOut, &r.Dropped} {
		if *l == nil {
			*l = []string{}
		}
	}
	if r.Problems == nil {
		r.Problems = []settingsync.Problem{}
	}
	return r
}
