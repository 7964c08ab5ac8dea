package editor

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// extensionDirs returns the directories in which a found editor keeps its extensions: the one set in
// the environment, else the editor's own.
func extensionDirs(env Env, f Found) []string {
	if p := env.Getenv("VSCODE_EXTENSIONS"); p != "" {
		return []string{p}
	}
	if p := env.Getenv("VSCODE_PORTABLE"); p != "" {
		return []string{filepath.Join(p, "extensions")}
	}
	home := env.Getenv("HOME")
	if home == "" {
		return nil
	}
	own := map[string]string{"code": ".vscode", "code-insiders": ".vscode-insiders", "codium": ".vscode-oss", "cursor": ".cursor"}[f.Editor.ID]
	dirs := []string{filepath.Join(home, own, "extensions")}
	if f.How == "flatpak" {
		// The flatpak's wrapper script keeps them in its own data directory.
		data := map[string]string{"code": "vscode", "code-insiders": "vscode-insiders", "codium": "codium"}[f.Editor.ID]
		dirs = append(dirs, filepath.Join(home, ".var/app", f.Editor.Flatpak, "data", data, "extensions"))
	}
	return dirs
}

// askLimit is how long an editor may take to list its extensions.
const askLimit = 15 * time.Second

// HasExtension reports whether the extension that opens SSH hosts is installed: it is in the
// editor's directory, or the editor itself lists it. Reading the directory costs next to nothing;
// the editor is asked only if the extension is not there, because it may be configured to use
// another directory, and takes a second or more.
func HasExtension(ctx context.Context, env Env, f Found) (bool, error) {
	if f.Editor.BuiltIn || f.Editor.Extension == "" {
		return true, nil
	}
	if has, err := extensionOnDisk(env, f); has && err == nil {
		return true, nil
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	return remoteExtension(ctx, f)
}

// extensionOnDisk reports whether the extension that opens SSH hosts is installed, by the names of
// the extension directories ("PUBLISHER.NAME-VERSION"). It starts nothing.
func extensionOnDisk(env Env, f Found) (bool, error) {
	dirs := extensionDirs(env, f)
	if len(dirs) == 0 {
		return false, errors.New("cannot look for extensions: HOME is not set")
	}
	for _, dir := range dirs {
		names, err := readNames(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, err
		}
		for _, n := range names {
			rest, ok := strings.CutPrefix(strings.ToLower(n), strings.ToLower(f.Editor.Extension)+"-")
			if ok && rest != "" && rest[0] >= '0' && rest[0] <= '9' {
				return true, nil
			}
		}
	}
	return false, nil
}

func readNames(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(-1)
}
