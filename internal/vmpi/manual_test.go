package vmpi

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"aivm.dev/aivm/internal/config"
)

// imported returns what an import of a JSON text says: its changes and remarks, one a line.
func imported(t *testing.T, text string, pairs ...string) string {
	t.Helper()
	f, err := Load(write(t, t.TempDir(), ".vmpirc.json", text))
	if err != nil {
		t.Fatal(err)
	}
	i := Import(f, config.DefaultConfig(), env(pairs...))
	lines := i.Remarks
	for _, c := range i.Changes {
		lines = append(lines, c.String())
	}
	return strings.Join(lines, "\n")
}

// says checks that an import of text says each of the wanted words.
func says(text string, want ...string) func(*testing.T, string) {
	return func(t *testing.T, _ string) {
		got := imported(t, text)
		for _, w := range want {
			if !strings.Contains(got, w) {
				t.Errorf("%s: no %q in %q", text, w, got)
			}
		}
	}
}

// variable checks that an import with the variable says each of the wanted words.
func variable(pair string, want ...string) func(*testing.T, string) {
	return func(t *testing.T, _ string) {
		got := imported(t, `{"memory": 300, "cpus": 2}`, pair)
		for _, w := range want {
			if !strings.Contains(got, w) {
				t.Errorf("%s: no %q in %q", pair, w, got)
			}
		}
	}
}

// helps checks that the help page of a command has the words.
func helps(page string, want ...string) func(*testing.T, string) {
	return func(t *testing.T, _ string) {
		b, err := os.ReadFile(filepath.Join("..", "..", "test", "script", "testdata", "help", page+".txt"))
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			if !strings.Contains(string(b), w) {
				t.Errorf("the help of %s has no %q", page, w)
			}
		}
	}
}

// reads checks that a file of that name is found and read.
func reads(name, text string) func(*testing.T, string) {
	return func(t *testing.T, _ string) {
		dir := t.TempDir()
		write(t, dir, name, text)
		if w := Project(dir, Options{UID: os.Geteuid(), Getenv: none}); w.MemoryMB != 300 {
			t.Errorf("%s: %+v", name, w)
		}
	}
}

// named checks the name of a package in Debian, and that setup's list of packages has it.
func named(alpine, name string) func(*testing.T, string) {
	return func(t *testing.T, _ string) {
		if got, _ := debianNames([]string{alpine}); !cmp.Equal(got, []string{name}) {
			t.Errorf("%s is %q, not %s", alpine, got, name)
		}
		inSources(filepath.Join("provision", "templates"), name)(t, "")
	}
}

// inSources checks that a Go file below dir has the words.
func inSources(dir string, want ...string) func(*testing.T, string) {
	return func(t *testing.T, _ string) {
		var all strings.Builder
		for _, pattern := range []string{"*.go", "*/*.go", "*/*.sh", "*.sh"} {
			files, err := filepath.Glob(filepath.Join("..", "..", dir, pattern))
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range files {
				if strings.HasSuffix(f, "_test.go") {
					continue
				}
				b, err := os.ReadFile(f)
				if err != nil {
					t.Fatal(err)
				}
				all.Write(b)
			}
		}
		for _, w := range want {
			if !strings.Contains(all.String(), w) {
				t.Errorf("%s has no %q", dir, w)
			}
		}
	}
}

// planned checks that the row says that aivm does not have this yet, or does not need it.
func planned(t *testing.T, row string) {
	if !strings.Contains(row, "planned") && !strings.Contains(row, "not there") && !strings.Contains(row, "not needed") {
		t.Errorf("the row neither has a counterpart nor says that there is none: %s", row)
	}
}

// shownBy checks that a test of that name exists in a file of the tree.
func shownBy(dir, test string) func(*testing.T, string) {
	return func(t *testing.T, _ string) {
		files, err := filepath.Glob(filepath.Join("..", "..", dir, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(b), "func "+test+"(") {
				return
			}
		}
		t.Errorf("%s has no test %s", dir, test)
	}
}

// rows has a check for each row of docs/from-vmpi.md, by its first cell.
var rows = map[string]func(t *testing.T, row string){
	"`npm install -g @the-agency/vmpi`": shownBy("test/house", "TestDocumentsNameTests"),
	"`pi install npm:@the-agency/vmpi`": planned,
	"`vmpi setup`":                      helps("aivm-setup", "aivm setup"),
	"`vmpi setup --debug`":              helps("aivm-setup", "--debug"),
	"`vmpi \"PROMPT\"`":                 helps("aivm-run", "aivm run --", "[-- command"),
	"`vmpi`":                            helps("aivm-run", "shell"),
	"`vmpi --debug`":                    helps("aivm-run", "--debug", "--timings"),
	"`vmpi status`":                     helps("aivm-status", "template"),

	"`.vmpirc.json`": reads(".vmpirc.json", `{"memory": 300}`),
	"`.vmpirc.yaml`": reads(".vmpirc.yaml", "memory: 300"),
	"`.vmpirc.yml`":  reads(".vmpirc.yml", "memory: 300"),

	"`memory`":                 says(`{"memory": 512}`, "run.memory_mb = 512"),
	"`cpus`":                   says(`{"cpus": 2}`, "run.cpus = 2"),
	"`piConfigDir`":            says(`{"piConfigDir": "~/.pi"}`, "[agents.pi]", "--mount ~/.pi"),
	"`stateDir`":               says(`{"stateDir": "~/.vmpi"}`, "$XDG_CACHE_HOME/aivm/templates"),
	"`network.policy`":         says(`{"network": {"policy": "allow-all"}}`, "--net open"),
	"`network.providers`":      says(`{"network": {"providers": ["openai"]}}`, "network.providers (openai)", "[egress]"),
	"`network.allowedDomains`": says(`{"network": {"allowedDomains": ["*.example.com"]}}`, "network.allowedDomains (*.example.com)", "[egress]"),
	"`network.localServices`":  says(`{"network": {"localServices": [{"hostname": "ollama.local", "port": 11434}]}}`, "ollama.local:11434", "[egress] services"),
	"`rootfsExtraMb`":          says(`{"rootfsExtraMb": 128}`, "not needed", "disk_gb"),
	"`guestPackages`":          says(`{"guestPackages": ["github-cli"]}`, `templates.default.packages = ["gh"]`, "github-cli is gh"),
	"`secrets`":                says(`{"secrets": {"A": {"hosts": ["h"]}}}`, "[secrets.NAME]", "--env A"),
	"`secrets.NAME.hosts`":     says(`{"secrets": {"A": {"hosts": ["api.example"]}}}`, "for api.example"),
	"`secrets.NAME.env`":       says(`{"secrets": {"A": {"hosts": ["h"], "env": "B"}}}`, `--env A="$B"`),

	"`VMPI_MEMORY`":          variable("VMPI_MEMORY=700", "run.memory_mb = 700  (VMPI_MEMORY)"),
	"`VMPI_CPUS`":            variable("VMPI_CPUS=3", "run.cpus = 3  (VMPI_CPUS)"),
	"`VMPI_STATE_DIR`":       variable("VMPI_STATE_DIR=/x", "$XDG_CACHE_HOME"),
	"`VMPI_ROOTFS_EXTRA_MB`": variable("VMPI_ROOTFS_EXTRA_MB=9", "not needed"),
	"`PI_CONFIG_DIR`":        variable("PI_CONFIG_DIR=/x", "[agents.pi]"),

	"`github-copilot`": planned, "`gemini`": planned, "`openai`": planned, "`anthropic`": planned, "`ollama`": planned, "`github`": planned,

	"`git`": named("git", "git"), "`fd`": named("fd", "fd-find"), "`ripgrep`": named("ripgrep", "ripgrep"), "`curl`": named("curl", "curl"),
	"`jq`": named("jq", "jq"), "`bash`": named("bash", "bash"), "`python3`": named("python3", "python3"), "`py3-pip`": named("py3-pip", "python3-pip"),
	"`nodejs`": inSources("provision/templates", "node"), "`npm`": inSources("provision/templates", "npm"), "`make`": named("make", "make"),
	"`patch`": named("patch", "patch"), "`file`": named("file", "file"), "`sqlite`": named("sqlite", "sqlite3"),

	"`/workspace`":                      helps("aivm-run", "/workspace", "--workspace"),
	"`/root/.pi`":                       planned,
	"`pi update`":                       helps("aivm-setup", "--upgrade"),
	"`~/.pi/agent/sessions/`":           planned,
	"`--workspace--`":                   planned,
	"`~/.vmpi/base-checkpoint.qcow2`":   helps("aivm-setup", "--template"),
	"`~/.vmpi/cache/`":                  helps("aivm-image-list", "image"),
	"`/dev/kvm`":                        inSources("provision/checks", "KVM"),
	"`qemu-system-x86_64`":              inSources("provision/checks", "7, 2"),
	"`qemu-img`":                        inSources("provision/checks", "qemu-img"),
	"`e2fsprogs`":                       planned,
	"Linux x86_64 only":                 inSources("internal/qemu", "arm64"),
	"no root":                           inSources("provision", "aivm run does not work as root"),
	"resumes in ~1 s":                   helps("aivm-run", "--timings"),
	"first run ~5 min":                  helps("aivm-setup", "aivm setup"),
	"tmpfs `/root`, `/tmp`, `/var/log`": inSources("internal", "O_TMPFILE"),
	"Ctrl-Z":                            inSources("provision/oneshot", "SIGTSTP"),
	"full PTY":                          helps("aivm-run", "--tty", "--no-tty"),
	"tmpfs env file":                    helps("aivm-run", "--env"),
	"HTTP hooks":                        helps("aivm-run", "--net"),
}

// TestManual checks that docs/from-vmpi.md has a row for everything that vmpi's manual names, and that
// what each row says is so.
func TestManual(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "..", "docs", "from-vmpi.md"))
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile(`(?m)^\| ([^|]+) \| .* \|$`)
	found := map[string]string{}
	for _, m := range row.FindAllStringSubmatch(string(b), -1) {
		switch m[1] {
		case "vmpi", "file", "key", "variable", "provider", "in vmpi":
			continue
		}
		if found[m[1]] != "" {
			t.Errorf("%s has two rows", m[1])
		}
		found[m[1]] = m[0]
	}
	want, got := slices.Sorted(maps.Keys(rows)), slices.Sorted(maps.Keys(found))
	if d := cmp.Diff(want, got); d != "" {
		t.Fatalf("the rows of docs/from-vmpi.md (-checked +written): %s", d)
	}
	for _, name := range want {
		t.Run(strings.Trim(name, "`"), func(t *testing.T) { rows[name](t, found[name]) })
	}
	for _, key := range []string{"memory | 512", "cpus | 1", "piConfigDir | ~/.pi", "stateDir | ~/.vmpi", "network.policy | inferred", "rootfsExtraMb | 128"} {
		if !strings.Contains(strings.ReplaceAll(string(b), "`", ""), "| "+key+" |") {
			t.Errorf("the default of vmpi: no %s", key)
		}
	}
}
