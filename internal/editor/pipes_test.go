package editor

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestPipesInSettingsDoNotBlock checks that reading settings does not block on pipes: a guest may be
// able to write an editor's settings directory and replace any file there by a pipe.
func TestPipesInSettingsDoNotBlock(t *testing.T) {
	home := t.TempDir()
	user, extensions := filepath.Join(home, "user"), filepath.Join(home, ".vscode", "extensions")
	for _, p := range []string{filepath.Join(user, "globalStorage", "storage.json"), filepath.Join(extensions, "extensions.json")} {
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mkfifo(p, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	env := Env{Getenv: func(n string) string { return map[string]string{"HOME": home}[n] }}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if f := SettingsFile(user, "Agents"); f != filepath.Join(user, "settings.json") {
			t.Errorf("settings %s", f)
		}
		if ids, err := WorkspaceExtensions(env, Found{Editor: Editor{DataFolder: ".vscode"}}); err == nil {
			t.Errorf("extensions %v", ids)
		}
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("reading blocks on a pipe")
	}
}
