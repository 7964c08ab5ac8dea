package house

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// core lists the packages below provision that every command uses. Each may import those before it.
var core = []string{"state", "session", "target", "loop"}

// looptest is the package with which tests of core and parts set up a loop. Only tests may import it.
const looptest = "provision/loop/looptest"

// parts lists the packages below provision from which the facade composes a run. A part must not import
// another one: it calls the loop, or gets a value from the facade.
var parts = []string{"machine", "folders", "clones", "settings", "editors", "walls", "snapshots", "images", "checks", "legacy03", "templates", "oneshot", "runs"}

// subpackages lists, for a subject package, the packages below it and itself (""). Each may import
// those before it; tests may import all of them.
var subpackages = map[string][]string{
	"gitsync": {"writable", "outside", "guestscript", "hostgit", "remoteconfig", "compare", "transfer", "onlyinvm", "carry", "pull", "", "gittest", "clonetest"},
}

// layer returns the layer of a package of this module, or "" if it has none.
func layer(dir string) string {
	top, below, _ := strings.Cut(dir, "/")
	switch {
	case dir == "cmd/aivm":
		return "main"
	case dir == "cmd":
		return "cmd"
	case dir == "cmd/cli":
		return "cli"
	case top == "cmd" && below != "":
		return "noun"
	case dir == "provision":
		return "composer"
	case dir == looptest:
		return "looptest"
	case top == "provision" && slices.Contains(core, below):
		return "core"
	case top == "provision" && slices.Contains(parts, below):
		return "part"
	case top == "provision" && below != "",
		slices.Contains([]string{"cloudinit", "sshcfg", "gitsync", "settingsync"}, top):
		return "subject"
	case top == "internal" && below != "":
		return "base"
	case top == "test" && below != "":
		return "test"
	}
	return ""
}

// mayImport lists the layers that each layer may import (docs/architecture.md, "Packages"). The tests
// below test/ may import all of them.
var mayImport = map[string][]string{
	"main":     {"cmd", "base"},
	"cmd":      {"noun", "cli", "composer", "base"},
	"noun":     {"cli", "composer", "base"},
	"cli":      {"composer", "base"},
	"composer": {"part", "core", "looptest", "subject", "base"},
	"part":     {"core", "looptest", "subject", "base"},
	"core":     {"core", "looptest", "subject", "base"},
	"looptest": {"core", "subject", "base"},
	"subject":  {"base"},
	"base":     {"base"},
	"test":     {"main", "cmd", "noun", "cli", "composer", "part", "core", "looptest", "subject", "base", "test"},
}

// restricted lists packages of other modules that only one package may import, with the reason.
var restricted = []struct{ imported, by, why string }{
	{"github.com/digitalocean/go-libvirt", "internal/virt", "its calls take no context; internal/virt wraps them"},
	{"golang.org/x/term", "internal/ui", "only ui.Std tests whether a stream is a terminal"},
}

// violation returns which rule an import of the package in dir violates, or "".
func violation(dir, imp string) string {
	for _, o := range restricted {
		if (imp == o.imported || strings.HasPrefix(imp, o.imported+"/")) && dir != o.by && layer(dir) != "test" {
			return "imports " + imp + ", which is for " + o.by + ": " + o.why
		}
	}
	if imp != module && !strings.HasPrefix(imp, module+"/") {
		return ""
	}
	to := strings.TrimPrefix(strings.TrimPrefix(imp, module), "/")
	if to == dir {
		return "" // its external test package
	}
	from := layer(dir)
	if sameSubject(dir, imp) {
		subject, below, _ := strings.Cut(dir, "/")
		_, toBelow, _ := strings.Cut(to, "/")
		order := subpackages[subject]
		if at := slices.Index(order, toBelow); at < 0 || at >= slices.Index(order, below) {
			return "imports " + to + ", which is not before it in the list of packages of " + subject
		}
		return ""
	}
	if from == "subject" && strings.HasPrefix(to, dir+"/") {
		return "" // a package below the subject package
	}
	if from == "core" && layer(to) == "core" && slices.Index(core, dir[len("provision/"):]) <= slices.Index(core, to[len("provision/"):]) {
		return "imports " + to + ", which is not below it"
	}
	if !slices.Contains(mayImport[from], layer(to)) {
		return "imports " + to + ": " + from + " must not import " + layer(to)
	}
	return ""
}

// sameSubject reports whether the package in dir and the imported one are in the same list of
// subpackages.
func sameSubject(dir, imp string) bool {
	subject, _, _ := strings.Cut(dir, "/")
	return subpackages[subject] != nil && (imp == module+"/"+subject || strings.HasPrefix(imp, module+"/"+subject+"/"))
}

// TestImportDirections checks the imports of all packages against mayImport and restricted.
func TestImportDirections(t *testing.T) {
	packages := goFiles(t)
	for _, dir := range slices.Sorted(maps.Keys(packages)) {
		if layer(dir) == "" {
			t.Errorf("%s belongs to no layer: see docs/architecture.md and the function layer in this test", dir)
			continue
		}
		for _, f := range packages[dir] {
			for _, imp := range f.imports {
				if f.test && (sameSubject(dir, imp) || imp == module+"/test/hints") {
					continue
				}
				if v := violation(dir, imp); v != "" {
					t.Errorf("%s %s", f.path, v)
				}
				if imp == module+"/"+looptest && !f.test {
					t.Errorf("%s imports %s, which is for tests", f.path, looptest)
				}
			}
		}
	}
}

// TestImportRuleCatches tests the rule with imports that it must find, because a rule that checks
// nothing finds nothing either.
func TestImportRuleCatches(t *testing.T) {
	for _, tc := range []struct {
		dir, imp string
		allowed  bool
	}{
		{"cmd/aivm", module + "/cmd", true},
		{"cmd/aivm", module + "/provision", false},
		{"cmd", module + "/provision", true},
		{"cmd", module + "/cmd/vm", true},
		{"cmd/vm", module + "/cmd/cli", true},
		{"cmd/vm", module + "/cmd/git", false},
		{"cmd/vm", module + "/provision/folders", false},
		{"cmd/cli", module + "/cmd/vm", false},
		{"cmd", module + "/internal/ui", true},
		{"cmd", module + "/sshcfg", false},
		{"cmd", module + "/provision/share", false},
		{"provision", module + "/provision/share", true},
		{"provision", module + "/provision/state", true},
		{"provision", module + "/cmd", false},
		{"provision/state", module + "/provision/share", true},
		{"provision/target", module + "/provision/session", true},
		{"provision/session", module + "/provision/target", false},
		{"provision/folders", module + "/provision/loop", true},
		{"provision/folders", module + "/provision/share", true},
		{"provision/folders", module + "/provision/clones", false},
		{"provision/folders", module + "/provision", false},
		{"provision/loop", module + "/provision/folders", false},
		{"provision", module + "/provision/folders", true},
		{"cmd", module + "/provision/folders", false},
		{"provision/share", module + "/provision/state", false},
		{"provision/state", module + "/provision", false},
		{"sshcfg", module + "/internal/guest", true},
		{"sshcfg", module + "/cloudinit", false},
		{"sshcfg", module + "/provision", false},
		{"provision/share", module + "/provision/host", false},
		{"provision/share", module + "/provision/share/inner", true},
		{"gitsync", module + "/gitsync/pull", true},
		{"gitsync", module + "/gitsync/gittest", false},
		{"gitsync/pull", module + "/gitsync/hostgit", true},
		{"gitsync/hostgit", module + "/gitsync/pull", false},
		{"gitsync/hostgit", module + "/gitsync", false},
		{"gitsync/hostgit", module + "/sshcfg", false},
		{"provision/clones", module + "/gitsync/pull", true},
		{"internal/plan", module + "/internal/root", true},
		{"internal/plan", module + "/sshcfg", false},
		{"test/e2e", module + "/cmd", true},
		{"provision/domain", "github.com/digitalocean/go-libvirt/socket", false},
		{"internal/virt", "github.com/digitalocean/go-libvirt", true},
		{"provision/domain", "libvirt.org/go/libvirtxml", true},
		{"sshcfg", "golang.org/x/crypto/ssh", true},
	} {
		if v := violation(tc.dir, tc.imp); (v == "") != tc.allowed {
			t.Errorf("%s importing %s: %q", tc.dir, tc.imp, v)
		}
	}
	for dir, want := range map[string]string{"pkg": "", "provision/x": "subject", "internal": "", "test": "", ".": "", "docs": ""} {
		if got := layer(dir); got != want {
			t.Errorf("layer(%q) = %q", dir, got)
		}
	}
}
