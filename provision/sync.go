package provision

import (
	"context"
	"errors"

	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/editors"
	"aivm.dev/aivm/provision/settings"
	"aivm.dev/aivm/provision/target"
	"aivm.dev/aivm/settingsync"
)

// SyncSettings copies the settings into one VM (`vm sync-settings`) and reports every file.
func (e *Env) SyncSettings(ctx context.Context, name string, editorName string, o target.SyncOptions) (settings.SyncResult, error) {
	var none settings.SyncResult
	e.Timing = ui.NewTiming("ssh", "settings")
	w, err := e.VM(ctx, name, target.Cwd(), false)
	if err != nil {
		return none, err
	}
	found, _, err := editors.For(e.Loop).Choose(editorName, w)
	if err != nil {
		return none, err
	}
	if o.Sync == nil {
		on := true
		o.Sync = &on
	}
	w, f, err := e.Converge(ctx, settings.For(e.Loop).Gather(w, o, found, true).WithGuest())
	if err != nil {
		return none, err
	}
	defer f.Close()
	defer f.Settings.StopReceiver()
	if f.Conn == nil {
		return none, ui.Refused("VM %s does not run, so no settings can be copied into it", w.Name).
			Hint(ui.Cmd("aivm vm up "+w.Name), ui.CmdFor("then", e.Rerun))
	}
	s := f.Settings
	if s.Err != nil {
		failed, why := ui.Failed("your settings were not copied into the guest: %w", s.Err), (*ui.Error)(nil)
		if errors.As(s.Err, &why) {
			failed.Hint(why.Hints...)
		}
		return none, failed.Hint(ui.CmdFor("try again", e.Rerun))
	}
	report := s.Report()
	r := settings.SyncResult{Schema: 1, VM: w.Name, Report: settings.EmptyLists(report), Notes: s.Round.Notes}
	if len(report.Problems) > 0 {
		e := ui.Failed("%d of your settings were not copied: %s", distinctPaths(report.Problems), report.Problems[0])
		for _, p := range report.Problems {
			if p.Hint != "" {
				e.Hint(ui.Remark(p.Hint))
			}
		}
		return r, e
	}
	return r, nil
}

// distinctPaths returns how many files the problems are about: a file with several secrets has several.
func distinctPaths(problems []settingsync.Problem) int {
	paths := map[string]bool{}
	for _, p := range problems {
		paths[p.Path] = true
	}
	return len(paths)
}
