package vmpi

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/projectfile"
)

func none(string) string { return "" }

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for _, p := range pairs {
			if v, ok := strings.CutPrefix(p, name+"="); ok {
				return v
			}
		}
		return ""
	}
}

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// manual is the example of vmpi's manual, with every key.
const manual = `{
  "memory": 1024,
  "cpus": 2,
  "piConfigDir": "~/pi",
  "stateDir": "~/vm",
  "rootfsExtraMb": 256,
  "network": {
    "policy": "custom",
    "providers": ["github-copilot", "anthropic"],
    "allowedDomains": ["my-custom-llm.example.com"],
    "localServices": [{ "hostname": "ollama.local", "port": 11434 }]
  },
  "guestPackages": ["github-cli", "make", "py3-numpy"],
  "secrets": {
    "GITHUB_TOKEN": { "hosts": ["api.github.com", "github.com"] },
    "TOKEN": { "hosts": ["a.example"], "env": "MY_PAT" }
  }
}
`

const manualYAML = `# the same
memory: 1024
cpus: 2
piConfigDir: ~/pi
stateDir: "~/vm"
rootfsExtraMb: 256
network:
  policy: custom
  providers: [github-copilot, anthropic]
  allowedDomains:
    - my-custom-llm.example.com
  localServices:
    - { hostname: ollama.local, port: 11434 }
guestPackages: [github-cli, make, py3-numpy]
secrets:
  GITHUB_TOKEN:
    hosts: [api.github.com, github.com]
  TOKEN: { hosts: [a.example], env: MY_PAT }
`

func TestReadBothForms(t *testing.T) {
	for name, text := range map[string]string{".vmpirc.json": manual, ".vmpirc.yaml": manualYAML, ".vmpirc.yml": manualYAML} {
		f, err := Load(write(t, t.TempDir(), name, text))
		if err != nil {
			t.Fatal(err)
		}
		got := fmt.Sprintf("%v %v %q %q %q %q %q %v %d %q %v %v", f.Memory.scalar, f.CPUs.scalar, f.PiConfigDir, f.StateDir, f.Policy, f.Providers,
			f.AllowedDomains, f.LocalServices, f.RootfsExtraMB, f.GuestPackages, f.Secrets, f.Wrong)
		want := `1024 2 "~/pi" "~/vm" "custom" ["github-copilot" "anthropic"] ["my-custom-llm.example.com"] [{ollama.local 11434}] 256 ["github-cli" "make" "py3-numpy"] [{GITHUB_TOKEN [api.github.com github.com] GITHUB_TOKEN} {TOKEN [a.example] MY_PAT}] []`
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", name, d)
		}
		if f.GuestPackages == nil || f.packagesLine == 0 {
			t.Errorf("%s: the lines", name)
		}
	}
	if f, err := Load(write(t, t.TempDir(), ".vmpirc.yaml", "# nothing\n")); err != nil || f.Memory.line != 0 {
		t.Errorf("an empty file: %+v, %v", f, err)
	}
}

// TestProject checks what a run takes: memory, CPUs and packages, and nothing else.
func TestProject(t *testing.T) {
	top := t.TempDir()
	sub := filepath.Join(top, "a", "b")
	if err := os.MkdirAll(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	path := write(t, top, ".vmpirc.json", manual)
	o := Options{Options: projectfile.Options{Trusted: "CONFIG", MaxMemoryMB: 2048, MaxCPUs: 2}, UID: os.Geteuid(), Getenv: none}
	w := Project(sub, o)
	if w.MemoryMB != 1024 || w.CPUs != 2 || !cmp.Equal(w.Packages, []string{"gh", "make", "python3-numpy"}) || !cmp.Equal(w.Files, []string{path}) {
		t.Errorf("%+v", w)
	}
	var keys []string
	for _, g := range w.Ignored {
		keys = append(keys, g.Key)
		if !strings.Contains(g.String(), "CONFIG") {
			t.Errorf("%s does not name the config", g)
		}
	}
	want := []string{"piConfigDir, stateDir, network.policy, network.providers, network.allowedDomains, network.localServices, rootfsExtraMb, secrets"}
	if d := cmp.Diff(want, keys); d != "" {
		t.Error(d)
	}
	// The nearest folder counts, and in it the first name.
	near := write(t, sub, ".vmpirc.yml", "memory: 256\n")
	if w := Project(sub, o); w.MemoryMB != 256 || w.CPUs != 0 || !cmp.Equal(w.Files, []string{near}) {
		t.Errorf("%+v", w)
	}
	write(t, sub, ".vmpirc.yaml", "memory: 300\n")
	if w := Project(sub, o); w.MemoryMB != 300 {
		t.Errorf("%+v", w)
	}
	o.Getenv = env("VMPI_MEMORY=400", "VMPI_CPUS=1", "VMPI_ROOTFS_EXTRA_MB=1")
	if w := Project(sub, o); w.MemoryMB != 400 || w.CPUs != 1 || len(w.Ignored) != 0 {
		t.Errorf("%+v", w)
	}
	o.Getenv = env("VMPI_MEMORY=lots", "VMPI_CPUS=-1")
	if w := Project(sub, o); w.MemoryMB != 300 || w.CPUs != 0 || len(w.Ignored) != 2 {
		t.Errorf("%+v", w)
	}
	// A file above the folder that another user put there is passed over.
	o.UID, o.Getenv = os.Geteuid()+1, none
	if os.Geteuid() != 0 {
		if w := Project(filepath.Join(top, "a"), o); len(w.Files) != 0 {
			t.Errorf("%+v", w)
		}
	} else if err := os.Chown(path, 4242, -1); err == nil {
		if w := Project(filepath.Join(top, "a"), o); len(w.Files) != 0 {
			t.Errorf("%+v", w)
		}
	}
}

// TestHostileFiles checks that a wrong file gives one remark, and neither blocks nor exhausts memory.
func TestHostileFiles(t *testing.T) {
	deep := strings.Repeat("[", 60000)
	bomb := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'z'; c++ {
		bomb += fmt.Sprintf("%c: &%c [*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c]\n", c, c, c-1, c-1, c-1, c-1, c-1, c-1, c-1, c-1)
	}
	for _, tt := range []struct{ name, text, want string }{
		{".vmpirc.json", deep, "too many values"},
		{".vmpirc.yaml", deep, ""},
		{".vmpirc.yaml", bomb, "aliases are not read"},
		{".vmpirc.yaml", "a: {b: 1}\nmemory: 512\n<<: {memory: 1}\n", "only simple keys"},
		{".vmpirc.yaml", "memory: 512\nmemory: 1024\n", "twice"},
		{".vmpirc.json", `{"memory": 512, "memory": 1024}`, "twice"},
		{".vmpirc.json", `{"memory": 512} {}`, "text after"},
		{".vmpirc.yaml", "memory: 512\n---\nmemory: 1\n", "more than one document"},
		{".vmpirc.json", `[1]`, "not a table"},
		{".vmpirc.json", "{\n\"memory\": 512,\n}", "not JSON"},
		{".vmpirc.yaml", "a: b: c\n", "not YAML"},
		{".vmpirc.yaml", "memory: !!python/object:os.system 512\ncpus: \x00", "not YAML"},
		{".vmpirc.json", strings.Repeat(" ", 65<<10) + "{}", "larger than 64 KiB"},
		{".vmpirc.json", `{"memory": "512"}`, "it is not an integer"},
		{".vmpirc.json", `{"memory": 1e9}`, "it is not an integer"},
		{".vmpirc.json", `{"memory": 999999999}`, "more than a project can ask for"},
		{".vmpirc.json", `{"cpus": null}`, "it is not an integer"},
		{".vmpirc.json", `{"guestPackages": "git"}`, "it is not a list"},
		{".vmpirc.json", `{"guestPackages": ["-oX=y"]}`, "is not a package name"},
		{".vmpirc.json", `{"network": []}`, "it is not a table"},
		{".vmpirc.json", `{"network": {"policy": "all"}}`, "it is none of"},
		{".vmpirc.json", `{"network": {"localServices": [{"hostname": "x", "port": 0}]}}`, "not { hostname, port }"},
		{".vmpirc.json", `{"network": {"hooks": 1}}`, "no such key"},
		{".vmpirc.json", `{"secrets": {"A B": {}}}`, "not a variable"},
		{".vmpirc.json", `{"secrets": {"A": {"env": "B;C"}}}`, "not the name of a variable"},
		{".vmpirc.json", `{"\u001b[2J": 1}`, "no such key"},
	} {
		dir := t.TempDir()
		write(t, dir, tt.name, tt.text)
		start := time.Now()
		w := Project(dir, Options{UID: os.Geteuid(), Getenv: none})
		if w.MemoryMB != 0 || w.CPUs != 0 || w.Packages != nil || len(w.Ignored) != 1 || time.Since(start) > 20*time.Second {
			t.Errorf("%.60q: %+v", tt.text, w)
			continue
		}
		if got := w.Ignored[0].String(); !strings.Contains(got, tt.want) || strings.ContainsAny(got, "\x1b\n") {
			t.Errorf("%.60q: %s", tt.text, got)
		}
	}
	canary := write(t, t.TempDir(), "canary", `{"memory": 512}`)
	for what, put := range map[string]func(string) error{
		"a FIFO": func(p string) error { return unix.Mkfifo(p, 0o666) },
		"a link": func(p string) error { return os.Symlink(canary, p) },
		"a dir":  func(p string) error { return os.Mkdir(p, 0o755) },
	} {
		dir := t.TempDir()
		if err := put(filepath.Join(dir, ".vmpirc.json")); err != nil {
			t.Fatal(err)
		}
		if w := Project(dir, Options{UID: os.Geteuid(), Getenv: none}); w.MemoryMB != 0 || len(w.Ignored) != 1 {
			t.Errorf("%s: %+v", what, w)
		}
		if _, err := Load(filepath.Join(dir, ".vmpirc.json")); err == nil {
			t.Errorf("%s was imported", what)
		}
	}
	if _, err := Load(filepath.Join(t.TempDir(), ".vmpirc.json")); err == nil || !strings.Contains(err.Error(), "there is no file") {
		t.Errorf("%v", err)
	}
	if _, err := Load(write(t, t.TempDir(), ".vmpirc.yaml", "a: b: c\n")); err == nil || !strings.Contains(err.Error(), ".vmpirc.yaml:1: it is not YAML") {
		t.Errorf("%v", err)
	}
}

func TestImport(t *testing.T) {
	f, err := Load(write(t, t.TempDir(), ".vmpirc.json", manual))
	if err != nil {
		t.Fatal(err)
	}
	have := config.DefaultConfig()
	have.Templates = []config.Template{{Name: "default", Image: "auto", Packages: []string{"make"}}}
	before := have.Clone()
	i := Import(f, have, env("VMPI_CPUS=3"))
	var got []string
	for _, c := range i.Changes {
		got = append(got, c.String())
	}
	want := []string{
		"run.memory_mb = 1024  (memory)", "run.cpus = 3  (VMPI_CPUS)",
		`templates.default.packages = ["make", "gh", "python3-numpy"]  (guestPackages)`,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(before, have); d != "" {
		t.Errorf("the config was changed: %s", d)
	}
	i.Apply(&have)
	if have.Run.MemoryMB != 1024 || have.Run.CPUs != 3 || !cmp.Equal(have.Templates[0].Packages, []string{"make", "gh", "python3-numpy"}) {
		t.Errorf("%+v", have)
	}
	if again := Import(f, have, env("VMPI_CPUS=3")); len(again.Changes) != 0 {
		t.Errorf("again: %v", again.Changes)
	}
	text := strings.Join(i.Remarks, "\n")
	for _, key := range f.otherKeys() {
		if key != "network.policy" && !strings.Contains(text, key) {
			t.Errorf("no remark on %s in\n%s", key, text)
		}
	}
}

// TestImportReadsNoSecret checks that no value of a secret gets into the output.
func TestImportReadsNoSecret(t *testing.T) {
	f, err := Load(write(t, t.TempDir(), ".vmpirc.json", manual))
	if err != nil {
		t.Fatal(err)
	}
	i := Import(f, config.DefaultConfig(), func(name string) string {
		if !strings.HasPrefix(name, "VMPI_") && name != "PI_CONFIG_DIR" {
			t.Errorf("%s was read", name)
		}
		return ""
	})
	if !strings.Contains(strings.Join(i.Remarks, "\n"), `--env TOKEN="$MY_PAT"`) {
		t.Errorf("%q", i.Remarks)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(".vmpirc.json", []byte(manual))
	f.Add(".vmpirc.yaml", []byte(manualYAML))
	f.Add(".vmpirc.yaml", []byte("a: &a [1]\nb: *a\n<<: *a\n? [x]\n: y\n"))
	f.Fuzz(func(t *testing.T, name string, text []byte) {
		if len(text) > 64<<10 {
			t.Skip()
		}
		root, err := parse(name, text)
		if err != nil {
			return
		}
		file := File{Path: "x"}
		file.fill(root)
		i := Import(file, config.DefaultConfig(), none)
		c := config.DefaultConfig()
		i.Apply(&c)
		for _, r := range i.Remarks {
			if strings.ContainsAny(r, "\n\x1b") {
				t.Errorf("%q", r)
			}
		}
	})
}
