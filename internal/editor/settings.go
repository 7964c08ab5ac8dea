package editor

import (
	"encoding/json"
	"os"
	"path"
	"path/filepath"
)

// UserDirs are the settings folders of an editor on this machine: the usual
// one and a flatpak's, whether they exist or not.
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

// UserDir is the settings folder of the editor that was found: dataDir is what
// it is given as --user-data-dir, "" for none. Portable mode is a folder "data"
// in the editor's own, or VSCODE_PORTABLE.
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
		if real, err := filepath.EvalSymlinks(f.Argv[0]); err == nil {
			data := filepath.Join(filepath.Dir(filepath.Dir(real)), "data")
			if filepath.Base(filepath.Dir(real)) == "bin" && env.Stat(filepath.Join(data, "user-data")) == nil {
				return filepath.Join(data, "user-data", "User")
			}
		}
	}
	if len(dirs) == 0 {
		return ""
	}
	return dirs[0]
}

// SettingsFile is the settings.json in use: of a profile of that name if there
// is one, else the editor's own.
func SettingsFile(userDir, profile string) string {
	own := filepath.Join(userDir, "settings.json")
	if profile == "" || userDir == "" {
		return own
	}
	b, err := os.ReadFile(filepath.Join(userDir, "globalStorage", "storage.json"))
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

// MachineSettings is the settings.json the editor's server reads in the guest,
// below its home; "" for an editor without such a server.
func (e Editor) MachineSettings() string {
	if e.ServerDir == "" || e.SettingsDir == "" {
		return ""
	}
	return path.Join(e.ServerDir, "data/Machine/settings.json")
}
