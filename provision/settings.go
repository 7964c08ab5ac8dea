package provision

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/editor"
	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/settingsync"
)

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

// settings is what a run does about settings.
type settings struct {
	wanted *settingsync.Wanted
	round  *settingsync.Round // of the last look
	report settingsync.Report // of what was done
	err    error              // why nothing, or not all, was done
	// early: there is most likely something to send.
	early    bool
	receiver *receiver // if it is started already
}

// wantSettings reads what this machine has to offer, if settings are wanted.
func (e *Env) wantSettings(w *want, o SyncOptions, found *editor.Found) {
	s := w.record.Sync
	on := s.Enabled || len(o.Paths) > 0 || len(o.Extensions) > 0
	if o.Sync != nil {
		on = *o.Sync
	}
	if !on {
		return
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
	if w.folder != nil && found != nil && found.Editor.Kind == editor.Desktop {
		opts.Recommended = settingsync.Recommended(w.folder.HostPath)
	}
	if o.Overwrite != nil {
		opts.Overwrite = *o.Overwrite
	}
	w.settings = &settings{wanted: settingsync.Gather(opts)}
	w.settings.wanted.Known = settingsync.State(e.state().Settings(w.name))
}

// untrusted are the folders some guest can write.
func untrusted(w *want) []string {
	var out []string
	for _, a := range w.store.Config.Attachments {
		if a.Access != "ro" {
			out = append(out, filepath.Clean(a.HostPath))
		}
	}
	if w.folder != nil && w.folder.Access != "ro" {
		out = append(out, w.folder.HostPath)
	}
	return out
}

// editorPlaces is the table of editors as far as settings are concerned, with
// the one in use marked.
func (e *Env) editorPlaces(found *editor.Found, o SyncOptions) []settingsync.EditorPlace {
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
					Target: found.Editor.MachineSettings(), Program: serverHome + "/*/bin/code-server", InUse: true,
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

// settingsProbe is the guest's piece of the one probe script.
func (w *want) settingsProbe() []guest.Probe {
	if w.settings == nil {
		return nil
	}
	return []guest.Probe{{Name: "settings", Script: w.settings.wanted.Probe()}}
}

// readSettings compares what the guest says with what is wanted. Only where
// that is not enough, contents are asked for, in an exec of its own.
func (e *Env) readSettings(ctx context.Context, c guest.Conn, w *want, answer []byte) {
	s := w.settings
	if s == nil {
		return
	}
	s.round, s.err = nil, nil
	g, err := s.wanted.ParseGuest(answer)
	if err != nil {
		s.err = err
		return
	}
	if g.State != "" && !e.DryRun {
		s.wanted.Known = g.State
		e.state().KeepSettings(w.name, string(g.State))
	}
	s.round = settingsync.Make(s.wanted, g, e.now())
	if !s.round.Unsure {
		return
	}
	out, err := c.Probe(ctx, []guest.Probe{{Name: "settings", Script: s.wanted.DetailProbe()}})
	if err == nil {
		g, err = s.wanted.ParseGuest(out["settings"])
	}
	if err != nil {
		s.round, s.err = nil, e.explainLost(ctx, w.name, err)
		return
	}
	s.round = settingsync.Make(s.wanted, g, e.now())
}

// planSettings is what has to be sent. Settings never keep a folder from being
// opened: what goes wrong is said at the end.
func (e *Env) planSettings(w *want, f *facts) []plan.Action {
	s := w.settings
	if s == nil || s.round == nil {
		return nil
	}
	s.report = s.round.Report
	out := e.planExtensions(w, f)
	if s.round.Empty() {
		return out
	}
	a := plan.Action{
		ID: "settings.send", Why: "remember in the guest what it has of your settings", Timing: "settings",
		Shows: []string{"write ~/.local/state/aivm/sync in the guest"},
		Do:    func(ctx context.Context) error { return e.sendSettings(ctx, w, f) },
	}
	if targets := s.round.Targets(); len(targets) > 0 {
		a.Why = "bring your settings into the guest: " + few(targets)
		a.Shows = nil
		for _, b := range s.report.Backups {
			a.Shows = append(a.Shows, "keep what the guest has as "+b)
		}
		for _, t := range targets {
			a.Shows = append(a.Shows, "write "+t+" in the guest")
		}
	}
	return append([]plan.Action{a}, out...)
}

func few(names []string) string {
	if len(names) > 6 {
		return strings.Join(names[:5], ", ") + fmt.Sprintf(" and %d more", len(names)-5)
	}
	return strings.Join(names, ", ")
}

// saySettings tells what was done about settings after a launch: only what is
// new.
func (e *Env) saySettings(w *want) {
	s := w.settings
	switch {
	case s == nil:
		return
	case s.err != nil:
		e.UI.Warn("your settings were not brought into the guest: %v", s.err)
		return
	case s.round == nil:
		return
	}
	for _, p := range s.round.Fresh {
		e.UI.Warn("settings: %s", p)
		if p.Hint != "" {
			e.UI.Warn("%s", p.Hint)
		}
	}
	for _, b := range s.report.Backups {
		e.UI.Say("Settings: the guest's own is kept as %s", b)
	}
	for _, k := range s.report.Conflicts {
		e.UI.Say("Settings: changed on both sides, the guest keeps its own: %s", k)
	}
	for _, n := range s.round.Notes {
		e.UI.Say("Settings: %s", n)
	}
	for _, d := range s.report.Dropped {
		e.UI.Say("Settings: no longer listed, and left in the guest: %s", d)
	}
	if n := len(s.report.Copied) + len(s.report.Merged); n > 0 {
		e.UI.Say("Settings: %s", few(append(slices.Clone(s.report.Copied), s.report.Merged...)))
	}
}

// SyncResult is what `vm sync-settings --json` prints.
type SyncResult struct {
	Schema int    `json:"schema"`
	VM     string `json:"vm"`
	settingsync.Report
}

// SyncSettings is the verb of its own: one VM, everything said.
func (e *Env) SyncSettings(ctx context.Context, name string, editorName string, o SyncOptions) error {
	e.timing = ui.NewTiming("ssh", "settings")
	w, err := e.wantVM(ctx, name, cwd(), false)
	if err != nil {
		return err
	}
	found, _, err := e.chooseEditor(editorName, w)
	if err != nil {
		return err
	}
	if o.Sync == nil {
		on := true
		o.Sync = &on
	}
	e.wantSettings(w, o, found)
	w.guest, w.settings.early = true, true
	defer w.settings.unneeded()
	f, err := e.converge(ctx, w)
	if err != nil {
		return err
	}
	defer f.close()
	if f.conn == nil {
		return ui.Refused("VM %s does not run, so nothing can be brought into it", w.name).
			Hint("aivm vm up "+w.name, "then: "+e.Rerun)
	}
	s := w.settings
	if s.err != nil {
		failed, why := ui.Failed("your settings were not brought into the guest: %w", s.err), (*ui.Error)(nil)
		if errors.As(s.err, &why) {
			failed.Hint(why.Hints...)
		}
		return failed.Hint("try again: " + e.Rerun)
	}
	if e.UI.JSON {
		if err := e.UI.PrintJSON(SyncResult{1, w.name, whole(s.report)}); err != nil {
			return err
		}
	} else {
		e.printSync(w.name, s)
	}
	if n := len(s.report.Problems); n > 0 {
		e := ui.Failed("%d of your settings stayed here: %s", n, s.report.Problems[0])
		for _, p := range s.report.Problems {
			if p.Hint != "" {
				e.Hint(p.Hint)
			}
		}
		return e
	}
	return nil
}

// whole makes lists of what would be null.
func whole(r settingsync.Report) settingsync.Report {
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

func (e *Env) printSync(vm string, s *settings) {
	r := s.report
	e.UI.Result("Settings in VM %s: copied %d, merged %d, unchanged %d, skipped_missing %d, skipped_exists %d (%d bytes sent)",
		vm, len(r.Copied), len(r.Merged), r.Unchanged, len(r.Missing), len(r.Kept), r.Bytes)
	for _, l := range []struct {
		what  string
		names []string
	}{
		{"copied", r.Copied},
		{"merged", r.Merged},
		{"not there on this machine", r.Missing},
		{"changed in the guest, and left", r.Kept},
		{"the guest's own is kept as", r.Backups},
		{"changed on both sides, the guest keeps its own", r.Conflicts},
		{"left out, for this machine only", r.LeftOut},
		{"no longer listed, and left in the guest", r.Dropped},
		{"note", s.round.Notes},
	} {
		for _, n := range l.names {
			e.UI.Result("  %s: %s", l.what, n)
		}
	}
	for _, p := range r.Problems {
		e.UI.Result("  not sent: %s", p)
	}
}

// chooseEditor finds the editor of a verb: flag, the VM's, the config's, auto.
func (e *Env) chooseEditor(flag string, w *want) (*editor.Found, string, error) {
	for _, id := range []string{flag, w.record.Editor.Default, configEditor(w.store)} {
		if id == "" || id == editor.Auto {
			continue
		}
		found, why, err := e.lookupEditor(id)
		if reason, remote := editor.RemoteSession(e.Editor); flag == "" && remote && err == nil && !found.Editor.Kind.Here() {
			return nil, "No editor is started here: " + reason, nil
		}
		return found, why, err
	}
	return e.lookupEditor(editor.Auto)
}

func configEditor(s *config.Store) string {
	if s == nil {
		return ""
	}
	return s.Config.Editor.Default
}
