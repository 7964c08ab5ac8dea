package editor

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestLaunchCommands compares the command with which each editor opens a folder, with and without a
// profile, with the golden file.
func TestLaunchCommands(t *testing.T) {
	var b strings.Builder
	for _, e := range Editors() {
		for _, to := range []Target{
			{Alias: "aivm", Path: "/home/me/my.project", User: "agent"},
			{Alias: "work-2", Path: "/a b/ü&x=1", User: "agent", Profile: "Agents", DataDir: "/tmp/d"},
		} {
			argv := "aivm code --editor " + e.ID
			if args, err := OpenArgs(Found{Editor: e}, to); err == nil {
				argv = shellLine(append([]string{e.Commands[0]}, args...))
			} else if to.Profile == "" && !e.Kind.NeedsNoLauncher() {
				t.Errorf("%s: %v", e.ID, err)
			}
			fmt.Fprintf(&b, "%-13s %s\n", e.ID, argv)
		}
	}
	golden := filepath.Join("testdata", "launch.golden")
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), b.String()); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

func TestUserDir(t *testing.T) {
	code, _ := ByID("code")
	for _, c := range []struct {
		name    string
		found   Found
		environ []string
		files   []string
		data    string
		want    string
	}{
		{"usual", Found{Editor: code, How: "path", Argv: []string{"/usr/bin/code"}}, []string{"HOME=/h"}, nil, "", "/h/.config/Code/User"},
		{"XDG", Found{Editor: code, How: "snap", Argv: []string{"/snap/bin/code"}}, []string{"HOME=/h", "XDG_CONFIG_HOME=/c"}, nil, "", "/c/Code/User"},
		{"flatpak", Found{Editor: code, How: "flatpak", Argv: []string{"flatpak", "run", "x"}}, []string{"HOME=/h"}, nil, "", "/h/.var/app/com.visualstudio.code/config/Code/User"},
		{"portable", Found{Editor: code, How: "path", Argv: []string{"/x"}}, []string{"HOME=/h", "VSCODE_PORTABLE=/p"}, nil, "", "/p/user-data/User"},
		{"appdata", Found{Editor: code, How: "path", Argv: []string{"/x"}}, []string{"HOME=/h", "VSCODE_APPDATA=/a"}, nil, "", "/a/Code/User"},
		{"data dir", Found{Editor: code, How: "path", Argv: []string{"/x"}}, []string{"HOME=/h", "VSCODE_PORTABLE=/p"}, nil, "/d", "/d/User"},
		{"no home", Found{Editor: code, How: "path", Argv: []string{"/x"}}, nil, nil, "", ""},
	} {
		if got := UserDir(host(c.files, c.environ...), c.found, c.data); got != c.want {
			t.Errorf("%s: %q", c.name, got)
		}
	}
	// A tarball with a directory "data" beside its "bin".
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"bin", "data/user-data"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/code"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	env := host([]string{filepath.Join(dir, "data/user-data")}, "HOME=/h")
	if got := UserDir(env, Found{Editor: code, How: "folder", Argv: []string{filepath.Join(dir, "bin/code")}}, ""); got != filepath.Join(dir, "data/user-data/User") {
		t.Errorf("portable tarball: %q", got)
	}
}

func TestSettingsFileOfAProfile(t *testing.T) {
	dir := t.TempDir()
	if got := SettingsFile(dir, "Agents"); got != filepath.Join(dir, "settings.json") {
		t.Errorf("without storage: %q", got)
	}
	if err := os.MkdirAll(filepath.Join(dir, "globalStorage"), 0o755); err != nil {
		t.Fatal(err)
	}
	text := `{"userDataProfiles":[{"location":"-1a2b","name":"Agents"},{"location":"../x","name":"Bad"}]}`
	if err := os.WriteFile(filepath.Join(dir, "globalStorage/storage.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for profile, want := range map[string]string{"Agents": "profiles/-1a2b/settings.json", "Bad": "settings.json", "None": "settings.json", "": "settings.json"} {
		if got := SettingsFile(dir, profile); got != filepath.Join(dir, want) {
			t.Errorf("%q: %q", profile, got)
		}
	}
}

func TestAll(t *testing.T) {
	found, _ := All(host([]string{"/usr/bin/zed"}, "PATH=/usr/bin"))
	if len(found) != len(Editors()) {
		t.Fatal(len(found))
	}
	i := slices.IndexFunc(found, func(f Found) bool { return f.Editor.ID == "zed" })
	if found[0].How != "" || found[i].How != "path" || found[len(found)-1].How != "built in" {
		t.Errorf("%+v", found)
	}
}

func TestWorkspaceExtensions(t *testing.T) {
	home := t.TempDir()
	dir := filepath.Join(home, ".vscode/extensions")
	var entries []string
	for name, manifest := range map[string]string{
		"a.main": `{"main":"x.js"}`, "a.theme": `{}`, "a.ui": `{"main":"x.js","extensionKind":["ui","workspace"]}`,
		"a.ws": `{"extensionKind":["workspace"]}`, "a.word": `{"extensionKind":"workspace"}`, "a.broken": `{`,
	} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, "package.json"), []byte(manifest), 0o600); err != nil {
			t.Fatal(err)
		}
		entries = append(entries, `{"identifier":{"id":"`+name+`"},"relativeLocation":"`+name+`"}`)
	}
	entries = append(entries, `{"identifier":{"id":"evil"},"relativeLocation":"../x"}`)
	if err := os.WriteFile(filepath.Join(dir, "extensions.json"), []byte("["+strings.Join(entries, ",")+"]"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, _ := ByID("code")
	got, err := WorkspaceExtensions(host(nil, "HOME="+home), Found{Editor: code})
	slices.Sort(got)
	if err != nil || !slices.Equal(got, []string{"a.main", "a.word", "a.ws"}) {
		t.Errorf("%q %v", got, err)
	}
	if got, err := WorkspaceExtensions(host(nil, "HOME=/nonexistent"), Found{Editor: code}); err != nil || got != nil {
		t.Errorf("%q %v", got, err)
	}
}
