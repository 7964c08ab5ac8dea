package settingsync

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestExtensions(t *testing.T) {
	m := newMachine(t)
	m.opts.Editors = []EditorPlace{{Name: "Code", Dir: m.host + "/.config/Code/User", Server: ".vscode-server", Target: ".vscode-server/data/Machine/settings.json", InUse: true}}
	m.opts.Extensions = []string{"golang.go", "Ms-Python.python"}
	// No server yet: nothing is installed and no details are probed.
	if _, r := m.probe(); !r.Empty() || len(r.Install) != 0 || r.NeedsDetail {
		t.Fatalf("%+v", r)
	}
	program := ".vscode-server/cli/servers/Stable-abc/server/bin/code-server"
	m.write(m.guest, program, "#!/bin/sh\n", 0o755)
	m.write(m.guest, ".vscode-server/extensions/golang.go-0.42.1/package.json", "{}", 0o644)
	_, r := m.probe()
	if len(r.Install) != 1 || !slices.Equal(r.Install[0].IDs, []string{"Ms-Python.python"}) || r.Install[0].Program != "./"+program {
		t.Fatalf("%+v", r.Install)
	}
	m.write(m.guest, ".vscode-server/extensions/ms-python.python-2026.1.0-linux-x64/package.json", "{}", 0o644)
	if r := m.sync(); len(r.Install) != 0 {
		t.Fatalf("%+v", r.Install)
	}
	// The path of code-server.
	m.opts.Editors[0].Server, m.opts.Editors[0].Program = ".local/share/code-server", ".local/share/aivm/code-server/*/bin/code-server"
	m.write(m.guest, ".local/share/aivm/code-server/4.1/bin/code-server", "#!/bin/sh\n", 0o755)
	if _, r := m.probe(); len(r.Install) != 1 || r.Install[0].Program != "./.local/share/aivm/code-server/4.1/bin/code-server" {
		t.Fatalf("%+v", r.Install)
	}
}

func TestRecommendedIsOffered(t *testing.T) {
	m := newMachine(t)
	folder := filepath.Join(m.host, "p")
	m.write(folder, ".vscode/extensions.json", "{\n// a comment\n\"recommendations\": [\"golang.go\", \"x; rm -rf /\", \"--force\", \"a.b\",],\n}", 0o644)
	if got := Recommended(folder); !slices.Equal(got, []string{"golang.go", "a.b"}) {
		t.Errorf("%q", got)
	}
	m.opts.Recommended = Recommended(folder)
	m.opts.Extensions = []string{"a.b"}
	r := m.sync()
	if len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "--extensions a.b,golang.go") || len(r.Install) != 0 {
		t.Errorf("%q", r.Notes)
	}
	if _, r := m.probe(); len(r.Notes) != 0 {
		t.Error("offered twice")
	}
	// A link that a guest created is not followed.
	if err := os.Remove(folder + "/.vscode/extensions.json"); err != nil {
		t.Fatal(err)
	}
	m.write(m.host, "secret.json", `{"recommendations": ["a.b"]}`, 0o644)
	if err := os.Symlink("../../secret.json", folder+"/.vscode/extensions.json"); err != nil {
		t.Fatal(err)
	}
	if got := Recommended(folder); got != nil {
		t.Errorf("%q through a link", got)
	}
}
