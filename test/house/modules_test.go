package house

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the list of linked modules")

// TestLinkedModules compares the modules linked into aivm with testdata/linked.txt. A new module needs
// a reviewed change of that file (go test ./test/house -update) and a row in docs/dependencies.md.
func TestLinkedModules(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}}{{end}}{{end}}", "./cmd/aivm")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderrOf(err))
	}
	linked := strings.Fields(string(out))
	slices.Sort(linked)
	got := strings.Join(slices.Compact(linked), "\n") + "\n"
	path := filepath.Join("testdata", "linked.txt")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); d != "" {
		t.Errorf("aivm links other modules than testdata/linked.txt lists (-reviewed +linked):\n%s", d)
	}
}

func stderrOf(err error) string {
	if e, ok := err.(*exec.ExitError); ok {
		return string(e.Stderr)
	}
	return ""
}

var requireLine = regexp.MustCompile(`(?m)^(?:require )?\s*([^\s/]+\.[^\s]*) v\S+( // indirect)?$`)

// required returns the modules in go.mod, with true for direct dependencies.
func required(t *testing.T) map[string]bool {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]bool{}
	for _, m := range requireLine.FindAllStringSubmatch(string(b), -1) {
		out[m[1]] = m[2] == ""
	}
	if len(out) == 0 {
		t.Fatal("no module found in go.mod")
	}
	return out
}

var row = regexp.MustCompile("(?m)^\\| `([^`]+)` \\| (.+) \\| (.+) \\|$")

// TestEveryDependencyIsExplained checks that docs/dependencies.md has a row for every direct dependency
// and for no module that go.mod does not require.
func TestEveryDependencyIsExplained(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(root, "docs", "dependencies.md"))
	if err != nil {
		t.Fatal(err)
	}
	explained := map[string]bool{}
	for _, m := range row.FindAllStringSubmatch(string(b), -1) {
		if explained[m[1]] {
			t.Errorf("docs/dependencies.md explains %s twice", m[1])
		}
		if strings.TrimSpace(m[2]) == "" || strings.TrimSpace(m[3]) == "" {
			t.Errorf("docs/dependencies.md leaves a cell of %s empty", m[1])
		}
		explained[m[1]] = true
	}
	modules := required(t)
	for m := range explained {
		if _, ok := modules[m]; !ok {
			t.Errorf("docs/dependencies.md explains %s, which go.mod does not require", m)
		}
	}
	// Imported modules count as direct even if go.mod still marks them as indirect.
	direct := map[string]string{}
	for m, isDirect := range modules {
		if isDirect {
			direct[m] = "go.mod"
		}
	}
	for _, files := range goFiles(t) {
		for _, f := range files {
			for _, imp := range f.imports {
				if m := moduleOf(imp, modules); m != "" {
					direct[m] = f.path
				}
			}
		}
	}
	for m, by := range direct {
		if !explained[m] {
			t.Errorf("docs/dependencies.md does not explain %s (used by %s)", m, by)
		}
	}
}

// moduleOf returns the longest module path that is a prefix of the import path, or "".
func moduleOf(imp string, modules map[string]bool) string {
	best := ""
	for m := range modules {
		if (imp == m || strings.HasPrefix(imp, m+"/")) && len(m) > len(best) {
			best = m
		}
	}
	return best
}
