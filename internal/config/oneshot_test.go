package config

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const oneshotText = `# mine
[run]
template = "go"
memory_mb = 1024 # small
cpus = 2
workspace = "ro"
ask = true
timeout = "30m"

# the Go one
[templates.go]
image = "packages:debian-12"
packages = ["golang", "make"]
script = "~/setup.sh"
memory_mb = 2048
cpus = 4
disk_gb = 16

[templates.default]
packages = []
`

func TestOneShotKeys(t *testing.T) {
	path := write(t, oneshotText)
	s := mustLoad(t, path)
	if len(s.Warnings) != 0 {
		t.Errorf("warnings: %v", s.Warnings)
	}
	want := Run{Template: "go", MemoryMB: 1024, CPUs: 2, Workspace: "ro", Ask: true, Timeout: "30m"}
	if diff := cmp.Diff(want, s.Config.Run); diff != "" {
		t.Error(diff)
	}
	if s.Config.Run.TimeLimit() != 30*time.Minute || (Run{Timeout: "off"}).TimeLimit() != 0 {
		t.Error("the time limit")
	}
	templates := []Template{
		{Name: "go", Image: "packages:debian-12", Packages: []string{"golang", "make"}, Script: "~/setup.sh", MemoryMB: 2048, CPUs: 4, DiskGB: 16},
		{Name: "default", Image: "auto", Packages: []string{}},
	}
	if diff := cmp.Diff(templates, s.Config.Templates); diff != "" {
		t.Error(diff)
	}
	if tm, ok := s.Config.TemplateNamed("other"); ok || tm.Name != "other" {
		t.Errorf("a template that does not exist: %+v", tm)
	}
	var none Config
	if tm, ok := none.TemplateNamed(DefaultTemplate); !ok || tm.Image != "auto" {
		t.Errorf("the default template without a section: %+v", tm)
	}
}

func TestOneShotMistakes(t *testing.T) {
	for text, want := range map[string]string{
		"[run]\nworkspace = \"all\"":            `:2:13: run.workspace: must be rw, ro or none, not "all"`,
		"[run]\ncpus = -1":                      `:2:8: run.cpus: must be from 0 to`,
		"[run]\nask = \"yes\"":                  `:2:7: run.ask: must be true or false`,
		"[run]\ntimeout = \"1\"":                `:2:11: run.timeout: must be a duration like "30m"`,
		"[run]\ntemplate = \"A B\"":             `:2:12: run.template: must be the name of a template`,
		"run = 1":                               `:1:1: run: must be a table`,
		"templates = 1":                         `:1:13: templates: must be tables ([templates.NAME])`,
		"[[templates]]\nname = 'a'":             `:1:3: templates: must be tables ([templates.NAME])`,
		"[templates]\na = 1":                    `:2:5: templates.a: must be a table`,
		"[templates.'../x']":                    `:1:2: templates."../x": must be the name of a template`,
		"[templates.a]\npackages = ['-x']":      `:2:13: templates.a.packages[0]: must be a package name`,
		"[templates.a]\nimage = \"\\u0007\"":    `:2:9: templates.a.image: must not contain control`,
		"[templates.'']\n":                      `templates."": must be the name of a template`,
		"[templates.a]\n\"\" = 1\nmemory = 512": "",
	} {
		path := write(t, text+"\n")
		s, err := Load(path)
		if want == "" {
			if err != nil || len(s.Warnings) != 2 || !strings.Contains(s.Warnings[1].Message, `did you mean "memory_mb"`) {
				t.Errorf("%q: %+v, %v", text, s, err)
			}
			continue
		}
		var fe *FileError
		if !errors.As(err, &fe) || !strings.Contains(fe.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestOneShotWriters checks that writers keep the sections, and change only what changed.
func TestOneShotWriters(t *testing.T) {
	path := write(t, oneshotText)
	update := func(change func(c *Config)) string {
		t.Helper()
		if err := Update(t.Context(), path, func(c *Config) error { change(c); return nil }); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if got := update(func(c *Config) { c.ActiveVM = "x" }); !strings.Contains(got, strings.SplitN(oneshotText, "[run]", 2)[1]) {
		t.Errorf("another key:\n%s", got)
	}
	got := update(func(c *Config) {
		c.Run.MemoryMB = 4096
		c.UpsertTemplate(Template{Name: "py", Image: "auto", Packages: []string{"python3"}})
		tm, _ := c.FindTemplate("go")
		tm.Packages = append(tm.Packages, "git")
	})
	for _, want := range []string{
		"memory_mb = 4096 # small\n", "packages = [\"golang\", \"make\", \"git\"]\n", "\n[templates.py]\nimage = \"auto\"\npackages = [\"python3\"]\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	got = update(func(c *Config) { c.RemoveTemplate("go") })
	if strings.Contains(got, "golang") || strings.Contains(got, "the Go one") || !strings.Contains(got, "[templates.py]") || !strings.Contains(got, "[templates.default]") {
		t.Errorf("removed:\n%s", got)
	}
	if ValidateTemplateName("a-1") != nil || ValidateTemplateName("../a") == nil || ValidatePackage("g++") != nil || ValidatePackage("-o") == nil {
		t.Error("the names")
	}
}
