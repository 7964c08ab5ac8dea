package editor

import (
	"os"
	"path/filepath"
	"testing"
)

func TestExtensionOnDisk(t *testing.T) {
	home := t.TempDir()
	mkdir := func(path string) string {
		p := filepath.Join(home, path)
		if err := os.MkdirAll(p, 0o755); err != nil {
			t.Fatal(err)
		}
		return p
	}
	code, _ := ByID("code")
	codium, _ := ByID("codium")
	for _, c := range []struct {
		name    string
		found   Found
		environ []string
		dir     string // created before
		want    bool
	}{
		{"nothing yet", Found{Editor: code}, nil, "", false},
		{"one with the same prefix", Found{Editor: code}, nil, ".vscode/extensions/ms-vscode-remote.remote-ssh-edit-0.87.0", false},
		{"installed", Found{Editor: code}, nil, ".vscode/extensions/ms-vscode-remote.remote-ssh-0.120.0", true},
		{"another editor's", Found{Editor: codium}, nil, "", false},
		{"VSCODE_EXTENSIONS", Found{Editor: codium}, []string{"VSCODE_EXTENSIONS=" + home + "/e"}, "e/jeanp413.open-remote-ssh-0.0.49", true},
		{"portable", Found{Editor: code}, []string{"VSCODE_PORTABLE=" + home + "/p"}, "p/extensions/ms-vscode-remote.remote-ssh-0.120.0-universal", true},
		{"flatpak", Found{Editor: codium, How: "flatpak"}, nil, ".var/app/com.vscodium.codium/data/codium/extensions/jeanp413.open-remote-ssh-0.0.49", true},
	} {
		if c.dir != "" {
			mkdir(c.dir)
		}
		got, err := extensionOnDisk(host(nil, append(c.environ, "HOME="+home)...), c.found)
		if err != nil || got != c.want {
			t.Errorf("%s: %v, %v", c.name, got, err)
		}
	}
	if _, err := extensionOnDisk(host(nil), Found{Editor: code}); err == nil {
		t.Error("no error without HOME")
	}
	mkdir("f")
	if err := os.WriteFile(filepath.Join(home, "f/extensions"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := extensionOnDisk(host(nil, "VSCODE_EXTENSIONS="+home+"/f/extensions"), Found{Editor: code}); err == nil {
		t.Error("no error for a directory that cannot be read")
	}
}
