package provision

import (
	"context"
	"path/filepath"
	"strings"

	"aivm.dev/aivm/internal/editor"
	"aivm.dev/aivm/internal/hostfile"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/settingsync"
)

// EditorFact is one line of `aivm editors`.
type EditorFact struct {
	ID        string   `json:"id"`
	Name      string   `json:"name"`
	Found     bool     `json:"found"`
	How       string   `json:"how,omitempty"` // path, snap, folder, flatpak, built in
	Command   []string `json:"command,omitempty"`
	Extension string   `json:"extension,omitempty"` // that opens SSH hosts, if it has to be installed
	OpenSSH   bool     `json:"openssh"`             // uses ssh itself, with its pinned host key
	Server    string   `json:"server,omitempty"`    // its folder in the guest
	Settings  string   `json:"settings,omitempty"`  // its settings on this machine
	Default   bool     `json:"default"`
	Why       string   `json:"why,omitempty"` // what is there and will not do
	Install   string   `json:"install,omitempty"`
}

// Editors says which editors there are and how each would be started. It
// starts none.
func (e *Env) Editors() ([]EditorFact, error) {
	s, err := e.load()
	if err != nil {
		return nil, err
	}
	found, why := editor.All(e.Editor)
	auto, _, lookErr := e.lookupEditor(editor.Auto)
	if want := s.Config.Editor.Default; want != "" && want != editor.Auto {
		auto, _, lookErr = e.lookupEditor(want)
	}
	var out []EditorFact
	for _, f := range found {
		fact := EditorFact{
			ID: f.Editor.ID, Name: f.Editor.Name, Found: f.How != "", How: f.How, Command: f.Argv, OpenSSH: f.Editor.OpenSSH,
			Server: f.Editor.ServerDir, Why: why[f.Editor.ID], Default: lookErr == nil && auto != nil && auto.Editor.ID == f.Editor.ID,
		}
		if !f.Editor.BuiltIn {
			fact.Extension = f.Editor.Extension
		}
		if fact.Found && f.Editor.SettingsDir != "" {
			fact.Settings = editor.UserDir(e.Editor, f, "")
		}
		if !fact.Found {
			fact.Install = f.Editor.Install
		}
		out = append(out, fact)
	}
	return out, nil
}

// checkEditor refuses what the editor cannot do, before any work.
func (e *Env) checkEditor(w *want, found *editor.Found, o CodeOptions) error {
	browser := found != nil && found.Editor.Kind == editor.Browser
	switch {
	case !browser && (o.NoBrowser || o.ServerArchive != ""):
		return ui.Usage("--no-browser and --code-server-archive belong to --editor code-server").Hint(ui.AddFlag(e.Rerun, "--editor code-server"))
	case found != nil && found.Editor.Kind != editor.Desktop && (o.Profile != "" || o.DataDir != ""):
		return ui.Usage("%s knows neither --profile nor --user-data-dir", found.Editor.Name)
	}
	w.editor = found
	w.browser = browser && o.ServerArchive == ""
	return nil
}

// checkConfigFile names a setting that keeps the editor from seeing our alias.
func (e *Env) checkConfigFile(f editor.Found, o SyncOptions) {
	if f.Editor.ConfigFileKey == "" {
		return
	}
	file := editor.SettingsFile(editor.UserDir(e.Editor, f, o.DataDir), o.Profile)
	b, err := hostfile.ReadFollowed(file, 16<<20)
	if err != nil || !strings.Contains(string(b), f.Editor.ConfigFileKey) {
		return // none, or not ours to worry about: the editor itself will say
	}
	value, ok := settingsync.StringSetting(string(b), f.Editor.ConfigFileKey)
	if !ok || value == "" || filepath.Clean(e.expand(value)) == filepath.Clean(e.SSH.SSHConfigPath) {
		return
	}
	e.UI.Warn("%s reads the SSH configuration %s (%s in %s), where the alias of the VM is not", f.Editor.Name, ui.Clean(value), f.Editor.ConfigFileKey, file)
	e.UI.Warn("add this as the first line of %s: Include %s", ui.Clean(value), filepath.Join(e.SSH.ConfigDir, "*.conf"))
}

// openEditor starts a program on the folder.
func (e *Env) openEditor(ctx context.Context, w *want, f *facts, found editor.Found, o CodeOptions) error {
	if f.aliasMade && !found.Editor.BuiltIn {
		e.offerExtension(ctx, found)
	}
	defer e.timing.Start("editor")()
	e.checkConfigFile(found, o.SyncOptions)
	args, err := editor.OpenArgs(found, editor.Target{Alias: w.name, Path: w.openAt, User: f.inst.User, Profile: o.Profile, DataDir: o.DataDir})
	if err != nil {
		return err
	}
	return editor.Open(ctx, found, args, e.UI.Err, e.UI.Err)
}
