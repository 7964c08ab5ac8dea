package target

import (
	"path/filepath"
	"testing"

	"aivm.dev/aivm/provision/image"
	"aivm.dev/aivm/provision/session"
	"aivm.dev/aivm/provision/share"
)

// The templates and the records of one-shot VMs are aivm's own: no guest gets them, not even by name.
func TestOwnDirs(t *testing.T) {
	base := t.TempDir()
	cache, runtime := filepath.Join(base, "cache", "aivm"), filepath.Join(base, "runtime")
	e := Finder{&session.Session{Getenv: func(name string) string {
		return map[string]string{"XDG_RUNTIME_DIR": runtime}[name]
	}}}
	e.Cache = image.Cache{Dir: filepath.Join(cache, "images")}
	e.StorePath = filepath.Join(base, "config", "aivm", "config.toml")
	e.SSH.ConfigDir, e.SSH.StateDir = filepath.Join(base, "config", "aivm", "ssh"), filepath.Join(base, "state", "aivm")
	for _, dir := range []string{filepath.Join(cache, "templates"), filepath.Join(cache, "templates", "k"), filepath.Join(runtime, "aivm"), filepath.Join(runtime, "aivm", "runs", "r1")} {
		if err := share.Refuse(dir, filepath.Join(base, "home"), e.OwnDirs(), []string{dir}); err == nil {
			t.Errorf("%s is shared", dir)
		}
	}
}
