package house

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// core are the packages below provision that every verb uses, the lowest first:
// each may import those before it.
var core = []string{"state", "session", "target", "loop"}

// stage is what tests of core and parts are set up with; only they import it.
const stage = "provision/loop/looptest"

// parts are what a run is put together from. None knows another: what one needs
// of another goes through the loop, or is handed to it by the facade.
var parts = []string{"machine", "folders", "clones", "settings", "editors", "walls", "snapshots", "images", "checks", "legacy03"}

// inner are the packages below a domain package, the lowest first, "" for itself:
// each may import those before it; tests may import all of them.
var inner = map[string][]string{
	"gitsync": {"writable", "guestscript", "hostgit", "remoteconfig", "compare", "transfer", "onlyinvm", "carry", "pull", "", "gittest", "clonetest"},
}

// layer returns the storey of a package of ours, "" if it has none.
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
	case dir == stage:
		return "stage"
	case top == "provision" && slices.Contains(core, below):
		return "core"
	case top == "provision" && slices.Contains(parts, below):
		return "part"
	case top == "provision" && below != "",
		slices.Contains([]string{"cloudinit", "sshcfg", "gitsync", "settingsync"}, top):
		return "domain"
	case top == "internal" && below != "":
		return "base"
	case top == "test" && below != "":
		return "test"
	}
	return ""
}

// mayImport is DESIGN "The house": each storey and those it looks down on.
// Tests under test/ see the whole house.
var mayImport = map[string][]string{
	"main":     {"cmd", "base"},
	"cmd":      {"noun", "cli", "composer", "base"},
	"noun":     {"cli", "composer", "base"},
	"cli":      {"composer", "base"},
	"composer": {"part", "core", "stage", "domain", "base"},
	"part":     {"core", "stage", "domain", "base"},
	"core":     {"core", "stage", "domain", "base"},
	"stage":    {"core", "domain", "base"},
	"domain":   {"base"},
	"base":     {"base"},
	"test":     {"main", "cmd", "noun", "cli", "composer", "part", "core", "stage", "domain", "base", "test"},
}

// only names packages of others that one place alone may import, and why.
var only = []struct{ imported, by, why string }{
	{"github.com/digitalocean/go-libvirt", "internal/virt", "its calls know no context; internal/virt wraps them"},
	{"golang.org/x/term", "internal/ui", "what is a terminal is asked once, in ui.Std"},
}

// complaint judges one import of the package in dir, "" if it is allowed.
func complaint(dir, imp string) string {
	for _, o := range only {
		if (imp == o.imported || strings.HasPrefix(imp, o.imported+"/")) && dir != o.by && layer(dir) != "test" {
			return "imports " + imp + ", which is for " + o.by + ": " + o.why
		}
	}
	if imp != module && !strings.HasPrefix(imp, module+"/") {
		return ""
	}
	to := strings.TrimPrefix(strings.TrimPrefix(imp, module), "/")
	if to == dir {
		return "" // a package_test of its own
	}
	from := layer(dir)
	if sameRoom(dir, imp) {
		room, below, _ := strings.Cut(dir, "/")
		_, toBelow, _ := strings.Cut(to, "/")
		order := inner[room]
		if at := slices.Index(order, toBelow); at < 0 || at >= slices.Index(order, below) {
			return "imports " + to + ", which is not before it in the list of packages of " + room
		}
		return ""
	}
	if from == "domain" && strings.HasPrefix(to, dir+"/") {
		return "" // a room's own inner package
	}
	if from == "core" && layer(to) == "core" && slices.Index(core, dir[len("provision/"):]) <= slices.Index(core, to[len("provision/"):]) {
		return "imports " + to + ", which is not below it"
	}
	if !slices.Contains(mayImport[from], layer(to)) {
		return "imports " + to + ": " + from + " must not import " + layer(to)
	}
	return ""
}

// sameRoom reports whether an import of the package in dir is one of the packages
// that inner orders together with it.
func sameRoom(dir, imp string) bool {
	room, _, _ := strings.Cut(dir, "/")
	return inner[room] != nil && (imp == module+"/"+room || strings.HasPrefix(imp, module+"/"+room+"/"))
}

func TestImportDirections(t *testing.T) {
	packages := goFiles(t)
	for _, dir := range slices.Sorted(maps.Keys(packages)) {
		if layer(dir) == "" {
			t.Errorf("%s belongs to no storey of the house: see DESIGN and layer in this test", dir)
			continue
		}
		for _, f := range packages[dir] {
			for _, imp := range f.imports {
				if f.test && sameRoom(dir, imp) {
					continue
				}
				if c := complaint(dir, imp); c != "" {
					t.Errorf("%s %s", f.path, c)
				}
				if imp == module+"/"+stage && !f.test {
					t.Errorf("%s imports %s, which is for tests", f.path, stage)
				}
			}
		}
	}
}

// The rule is tested against what it must catch: a rule that finds nothing
// looks the same as one that looks at nothing.
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
		if c := complaint(tc.dir, tc.imp); (c == "") != tc.allowed {
			t.Errorf("%s importing %s: %q", tc.dir, tc.imp, c)
		}
	}
	for dir, want := range map[string]string{"pkg": "", "provision/x": "domain", "internal": "", "test": "", ".": "", "docs": ""} {
		if got := layer(dir); got != want {
			t.Errorf("layer(%q) = %q", dir, got)
		}
	}
}
