package editors

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/editor"
	"aivm.dev/aivm/internal/hostfile"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/host"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/target"
	"aivm.dev/aivm/settingsync"
)

// EditorFact is one line of `aivm editors`.
type EditorFact struct {
	ID        string   `json:"id"`
	Name      string   `json:"name"`
	Found     bool     `json:"found"`
	How       string   `json:"how,omitempty"` // path, snap, folder, flatpak, built in
	Command   []string `json:"command,omitempty"`
	Extension string   `json:"extension,omitempty"` // the extension that opens SSH hosts, if it has to be installed
	OpenSSH   bool     `json:"openssh"`             // uses ssh itself, with its pinned host key
	Server    string   `json:"server,omitempty"`    // its folder in the guest
	Settings  string   `json:"settings,omitempty"`  // its settings on this machine
	Default   bool     `json:"default"`
	Why       string   `json:"why,omitempty"` // why a program that was found cannot be used
	Install   string   `json:"install,omitempty"`
}

// Editors lists the editors with how each would be started. It starts none.
func (e Part) Editors() ([]EditorFact, error) {
	s, err := e.Load()
	if err != nil {
		return nil, err
	}
	found, why := editor.All(e.Editor)
	auto, _, lookErr := e.Lookup(editor.Auto)
	if want := s.Config.Editor.Default; want != "" && want != editor.Auto {
		auto, _, lookErr = e.Lookup(want)
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

// WithEditor returns w with the editor. It refuses flags that the editor does not support.
func (e Part) WithEditor(w *target.Target, found *editor.Found, o CodeOptions) (*target.Target, error) {
	browser := found != nil && found.Editor.Kind == editor.Browser
	switch {
	case !browser && (o.NoBrowser || o.ServerArchive != ""):
		return w, ui.Usage("--no-browser and --code-server-archive need --editor code-server").Hint(ui.Cmd(ui.AddFlag(e.Rerun, "--editor code-server")))
	case found != nil && found.Editor.Kind != editor.Desktop && (o.Profile != "" || o.DataDir != ""):
		return w, ui.Usage("%s supports neither --profile nor --user-data-dir", found.Editor.Name)
	}
	return w.OpenedIn(found, browser && o.ServerArchive == ""), nil
}

// ConfigFile returns the ssh configuration that the editor's settings name, and the settings file;
// "" if they name none.
func (e Part) ConfigFile(f editor.Found, o target.SyncOptions) (named, settings string) {
	if f.Editor.ConfigFileKey == "" {
		return "", ""
	}
	file := editor.SettingsFile(editor.UserDir(e.Editor, f, o.DataDir), o.Profile)
	b, err := hostfile.ReadFollowed(file, 16<<20)
	if err != nil || !strings.Contains(string(b), f.Editor.ConfigFileKey) {
		return "", "" // there is no such setting, or the editor itself will report the error
	}
	value, ok := settingsync.StringSetting(string(b), f.Editor.ConfigFileKey)
	if value = filepath.Clean(e.Expand(value)); !ok || !filepath.IsAbs(value) {
		return "", ""
	}
	return value, file
}

// checkConfigFile warns of a setting that makes the editor read another ssh configuration, without
// the VM's alias. For an editor that runs ssh, the alias is checked in that configuration instead.
func (e Part) checkConfigFile(f editor.Found, o target.SyncOptions) {
	named, settings := e.ConfigFile(f, o)
	if named == "" || f.Editor.OpenSSH || named == filepath.Clean(e.SSH.SSHConfigPath) {
		return
	}
	e.UI.Warn("%s reads the SSH configuration %s (%s in %s), which does not have the VM's alias", f.Editor.Name, ui.Clean(named), f.Editor.ConfigFileKey, settings)
	e.UI.Warn("add this as the first line of %s: Include %s", ui.Clean(named), filepath.Join(e.SSH.ConfigDir, "*.conf"))
}

// Open starts an editor on the folder.
func (e Part) Open(ctx context.Context, w *target.Target, f *loop.Facts, found editor.Found, o CodeOptions) error {
	if !found.Editor.BuiltIn {
		e.offerExtension(ctx, found)
	}
	defer e.Timing.Start("editor")()
	e.checkConfigFile(found, o.SyncOptions)
	args, err := editor.OpenArgs(found, editor.Target{Alias: w.Name, Path: w.OpenAt, User: f.Inst.User, Profile: o.Profile, DataDir: o.DataDir})
	if err != nil {
		return err
	}
	return editor.Open(ctx, found, args, e.Stderr, e.Stderr)
}

// Choose finds the editor of a verb: from the flag, else the VM's setting, else the config's, else
// auto.
func (e Part) Choose(flag string, w *target.Target) (*editor.Found, string, error) {
	for _, id := range []string{flag, w.Record.Editor.Default, configEditor(w.Store)} {
		if id == "" || id == editor.Auto {
			continue
		}
		found, why, err := e.Lookup(id)
		if reason, remote := editor.RemoteSession(e.Editor); flag == "" && remote && err == nil && !found.Editor.Kind.NeedsNoLauncher() {
			return nil, "No editor is started here: " + reason, nil
		}
		return found, why, err
	}
	return e.Lookup(editor.Auto)
}

func configEditor(s *config.Store) string {
	if s == nil {
		return ""
	}
	return s.Config.Editor.Default
}

// WithoutExtension returns the editor that would be used, if no editor has the extension it needs;
// otherwise nil.
func (e Part) WithoutExtension(ctx context.Context) *editor.Found {
	if _, remote := editor.RemoteSession(e.Editor); remote {
		return nil
	}
	f, err := editor.Lookup(e.Editor, editor.Auto)
	if err != nil {
		return nil
	}
	for _, k := range e.Found() {
		if k.Editor.Extension == "" {
			continue
		}
		if has, err := editor.HasExtension(ctx, e.Editor, k); has || err != nil {
			return nil
		}
	}
	return &f
}

// PlanExtension plans to install the extension with which f opens VMs; f may be nil.
func (e Part) PlanExtension(f *editor.Found) []plan.Action {
	if f == nil {
		return nil
	}
	return []plan.Action{{
		ID: "editor.extension", Why: "install the extension with which " + f.Editor.Name + " opens VMs",
		Shows: []string{extensionCommand(*f)}, Consent: plan.Ask,
		Do: func(ctx context.Context) error {
			return editor.Open(ctx, *f, []string{"--install-extension", f.Editor.Extension}, e.Stderr, e.Stderr)
		},
	}}
}

// Check lists the editors and whether they can open a VM. Without any, aivm prints the recipe instead.
func (e Part) Check(ctx context.Context) host.Check {
	c := host.Check{ID: "editor", Label: "Editors", State: host.OK}
	if reason, remote := editor.RemoteSession(e.Editor); remote {
		c.State, c.Detail = host.Skipped, "none is started on this machine: "+reason
		return c
	}
	var good, bad []string
	for _, f := range e.Found() {
		if f.Editor.Extension == "" {
			continue // a browser, a terminal, instructions: always available
		}
		has, err := editor.HasExtension(ctx, e.Editor, f)
		c.Evidence = append(c.Evidence, fmt.Sprintf("%s: %s (%s), %s installed: %v", f.Editor.ID, strings.Join(f.Argv, " "), f.How, f.Editor.Extension, has))
		switch {
		case err != nil:
			c.State = host.Unknown
			bad = append(bad, fmt.Sprintf("%s: its extensions cannot be read: %v", f.Editor.Name, err))
		case has:
			good = append(good, f.Editor.Name)
		default:
			bad = append(bad, fmt.Sprintf("%s needs the extension %s to open VMs", f.Editor.Name, f.Editor.Extension))
			c.Fix = append(c.Fix, extensionCommand(f))
		}
	}
	switch {
	case len(good) > 0:
		// One editor that works is enough.
		c.State, c.Detail = host.OK, strings.Join(append(good, bad...), "; ")
	case len(bad) > 0:
		if c.State == host.OK {
			c.State = host.Bad
		}
		c.Detail = strings.Join(bad, "; ")
	default:
		_, err := editor.Lookup(e.Editor, editor.Auto)
		c.State, c.Detail = host.Skipped, "no editor was found; aivm prints instructions instead"
		if err != nil {
			c.Detail += ": " + err.Error()
		}
		for _, k := range editor.Editors()[:1] {
			c.Fix = []string{"to install " + k.Name + ": " + k.Install}
		}
	}
	return c
}

// Found returns the editors that are installed.
func (e Part) Found() []editor.Found {
	var out []editor.Found
	for _, id := range editor.IDs() {
		if f, err := editor.Lookup(e.Editor, id); err == nil {
			out = append(out, f)
		}
	}
	return out
}

func extensionCommand(f editor.Found) string {
	return strings.Join(f.Argv, " ") + " --install-extension " + f.Editor.Extension
}
