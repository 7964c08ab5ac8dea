package editor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"

	"aivm.dev/aivm/internal/hostfile"
)

// maxRead limits how much of an editor's file is read, since a guest may be able to write its
// settings directory.
const maxRead = 64 << 20

// UserDirs returns the settings directories of an editor on the host, the usual one and that of its
// flatpak, whether or not they exist.
func UserDirs(env Env, e Editor) []string {
	var out []string
	if e.SettingsDir == "" {
		return nil
	}
	if dir := configHome(env); dir != "" {
		out = append(out, filepath.Join(dir, e.SettingsDir))
	}
	if home := env.Getenv("HOME"); home != "" && e.FlatpakSettingsDir != "" {
		out = append(out, filepath.Join(home, e.FlatpakSettingsDir))
	}
	return out
}

func configHome(env Env) string {
	if dir := env.Getenv("XDG_CONFIG_HOME"); filepath.IsAbs(dir) {
		return dir
	}
	if home := env.Getenv("HOME"); home != "" {
		return filepath.Join(home, ".config")
	}
	return ""
}

// UserDir returns the settings directory of a found editor. dataDir is the value of its
// --user-data-dir, "" for none. The editor is in portable mode if its installation has a directory
// "data", or VSCODE_PORTABLE is set.
func UserDir(env Env, f Found, dataDir string) string {
	base := filepath.Base(filepath.Dir(f.Editor.SettingsDir)) // "Code" of "Code/User"
	switch {
	case f.Editor.SettingsDir == "":
		return ""
	case dataDir != "":
		return filepath.Join(dataDir, "User")
	case env.Getenv("VSCODE_PORTABLE") != "":
		return filepath.Join(env.Getenv("VSCODE_PORTABLE"), "user-data", "User")
	case env.Getenv("VSCODE_APPDATA") != "":
		return filepath.Join(env.Getenv("VSCODE_APPDATA"), base, "User")
	}
	dirs := UserDirs(env, f.Editor)
	if f.How == "flatpak" && f.Editor.FlatpakSettingsDir != "" && len(dirs) > 1 {
		return dirs[1]
	}
	if f.How == "folder" || f.How == "path" {
		if resolved, err := filepath.EvalSymlinks(f.Argv[0]); err == nil {
			data := filepath.Join(filepath.Dir(filepath.Dir(resolved)), "data")
			if filepath.Base(filepath.Dir(resolved)) == "bin" && env.Stat(filepath.Join(data, "user-data")) == nil {
				return filepath.Join(data, "user-data", "User")
			}
		}
	}
	if len(dirs) == 0 {
		return ""
	}
	return dirs[0]
}

// SettingsFile returns the path of the settings.json in use: that of the named profile if it exists,
// else the editor's own.
func SettingsFile(userDir, profile string) string {
	own := filepath.Join(userDir, "settings.json")
	if profile == "" || userDir == "" {
		return own
	}
	b, err := hostfile.ReadFollowed(filepath.Join(userDir, "globalStorage", "storage.json"), maxRead)
	if err != nil {
		return own
	}
	var storage struct {
		Profiles []struct{ Location, Name string } `json:"userDataProfiles"`
	}
	if json.Unmarshal(b, &storage) != nil {
		return own
	}
	for _, p := range storage.Profiles {
		if p.Name == profile && p.Location != "" && filepath.Base(p.Location) == p.Location {
			return filepath.Join(userDir, "profiles", p.Location, "settings.json")
		}
	}
	return own
}

// MachineSettings returns the path, below home in the guest, of the settings.json that the editor's
// server reads; "" for an editor without such a server.
func (e Editor) MachineSettings() string {
	switch {
	case e.Kind == Browser:
		return path.Join(e.ServerDir, "Machine/settings.json")
	case e.Kind != Desktop:
		return ""
	}
	return path.Join(e.ServerDir, "data/Machine/settings.json")
}

// WorkspaceExtensions returns the ids of the extensions installed on the host that run where the
// folder is, by the editor's own rule: those whose extensionKind has "workspace" first, and those
// without extensionKind that have a program (main).
func WorkspaceExtensions(env Env, f Found) ([]string, error) {
	dir := env.Getenv("VSCODE_EXTENSIONS")
	if dir == "" {
		home := env.Getenv("HOME")
		if home == "" || f.Editor.DataFolder == "" {
			return nil, nil
		}
		dir = filepath.Join(home, f.Editor.DataFolder, "extensions")
	}
	b, err := hostfile.ReadFollowed(filepath.Join(dir, "extensions.json"), maxRead)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var installed []struct {
		Identifier       struct{ ID string }
		RelativeLocation string
	}
	if err := json.Unmarshal(b, &installed); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, "extensions.json"), err)
	}
	var out []string
	for _, x := range installed {
		if x.RelativeLocation == "" || filepath.Base(x.RelativeLocation) != x.RelativeLocation {
			continue
		}
		b, err := hostfile.ReadFollowed(filepath.Join(dir, x.RelativeLocation, "package.json"), maxRead)
		if err != nil {
			continue // probably being installed or removed
		}
		var manifest struct {
			Main          string
			ExtensionKind json.RawMessage
		}
		if json.Unmarshal(b, &manifest) != nil {
			continue
		}
		var kinds []string
		if json.Unmarshal(manifest.ExtensionKind, &kinds) != nil {
			var one string
			if json.Unmarshal(manifest.ExtensionKind, &one) == nil {
				kinds = []string{one}
			}
		}
		if len(kinds) > 0 && kinds[0] == "workspace" || len(kinds) == 0 && manifest.Main != "" {
			out = append(out, x.Identifier.ID)
		}
	}
	return out, nil
}
