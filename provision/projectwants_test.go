package provision

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/projectfile"
	"aivm.dev/aivm/provision/host"
)

// A project's two files are read in their order, within this machine's limits.
func TestProjectWants(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	if got := env(w).ProjectWants(dir); got.MemoryMB != 0 || len(got.Files) != 0 {
		t.Errorf("nothing: %+v", got)
	}
	for name, text := range map[string]string{
		".vmpirc.json":   `{"memory": 300, "cpus": 1, "guestPackages": ["github-cli"], "secrets": {"A": {"hosts": ["h"]}}}`,
		projectfile.Name: "memory_mb = 256\ntemplate = 'x'\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got := env(w).ProjectWants(dir)
	if got.MemoryMB != 256 || got.CPUs != 1 || len(got.Packages) != 1 || got.Packages[0] != "gh" || len(got.Ignored) != 2 {
		t.Errorf("%+v", got)
	}
	for _, r := range got.Remarks() {
		if !strings.Contains(r, w.StorePath) {
			t.Errorf("%q does not name the config", r)
		}
	}
	c := config.DefaultConfig()
	c.Templates = []config.Template{{Name: "web", Packages: []string{"make"}}}
	if got := packagesHint(got, &c, "web"); got != "aivm setup --template web --packages make,gh" {
		t.Errorf("%s", got)
	}
	c.Templates[0].Packages = []string{"gh"}
	if got := packagesHint(got, &c, "web"); got != "" {
		t.Errorf("%s", got)
	}
	if err := os.WriteFile(filepath.Join(dir, projectfile.Name), []byte("memory_mb = 65536\ncpus = 64\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := env(w).ProjectWants(dir); len(got.Ignored) < 2 {
		t.Errorf("more than this machine has: %+v", got)
	}
}

// The check of status knows a template that is ready, stale, not built, or another one.
func TestOneShotsCheck(t *testing.T) {
	for _, tt := range []struct {
		wanted string
		list   []TemplateListed
		state  any
		detail string
	}{
		{"", nil, host.Skipped, "none yet"},
		{"", []TemplateListed{{Name: "default", State: "ready", Accel: "kvm"}}, host.OK, "default is ready"},
		{"", []TemplateListed{{Name: "default", State: "ready", Accel: "tcg", Why: "old"}}, host.OK, "default is ready: old; emulation"},
		{"", []TemplateListed{{Name: "default", State: "stale", Why: "another QEMU"}}, host.Bad, "default is stale: another QEMU"},
		{"", []TemplateListed{{Name: "default", State: "building"}}, host.Skipped, "default is building"},
		{"web", []TemplateListed{{Name: "default", State: "ready"}}, host.Skipped, "none yet"},
	} {
		c := OneShots{Templates: tt.list, Runs: []RunRecord{{}}}.Check(tt.wanted)
		if any(c.State) != tt.state || !strings.HasPrefix(c.Detail, tt.detail) || !strings.HasSuffix(c.Detail, "; 1 running") {
			t.Errorf("%+v: %+v", tt, c)
		}
		if tt.wanted == "web" && c.Fix[0] != "aivm setup --template web" {
			t.Errorf("%v", c.Fix)
		}
	}
}
