package house

import (
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	maxLines = 500 // of a file
	maxFiles = 20  // of a package, without tests
)

// vagueNames are package names that do not tell what a package contains.
var vagueNames = []string{"util", "utils", "common", "helper", "helpers", "context", "misc", "lib", "shared"}

// TestPackagesSayWhatTheyAre checks package names, package comments, and the sizes of packages and
// files.
func TestPackagesSayWhatTheyAre(t *testing.T) {
	packages := goFiles(t)
	for _, dir := range slices.Sorted(maps.Keys(packages)) {
		var docs []string
		var name string
		count := 0
		for _, f := range packages[dir] {
			if n := f.ast.Name.Name; !f.test || name == "" {
				name = strings.TrimSuffix(n, "_test")
			}
			if f.ast.Doc != nil && !strings.HasSuffix(f.ast.Name.Name, "_test") {
				docs = append(docs, f.ast.Doc.Text())
			}
			if !f.test {
				count++
			}
			if f.lines > maxLines {
				t.Errorf("%s has %d lines, more than %d: split it by responsibility", f.path, f.lines, maxLines)
			}
		}
		if slices.Contains(vagueNames, name) || slices.Contains(vagueNames, path.Base(dir)) {
			t.Errorf("%s: the package name %q does not tell what the package contains", dir, name)
		}
		if count > maxFiles {
			t.Errorf("%s has %d files, more than %d: split it by subject", dir, count, maxFiles)
		}
		want := "Package " + name + " "
		switch {
		case len(docs) == 0:
			t.Errorf("%s has no package comment", dir)
		case len(docs) > 1:
			t.Errorf("%s has %d package comments; only one is allowed", dir, len(docs))
		case name != "main" && !strings.HasPrefix(docs[0], want):
			t.Errorf("%s: the package comment does not begin with %q", dir, want)
		}
	}
}

// The texts are split in two, so that this file does not contain what it forbids.
var (
	machinePath = regexp.MustCompile(`(^|[^\w.~/-])/wo` + `rk/(main|shared|\.library)\b`)
	registries  = []string{
		"proxy.golang" + ".org", "sum.golang" + ".org", "deb.debian" + ".org", "security.debian" + ".org",
		"snapshot.debian" + ".org", "registry.npmjs" + ".org", "files.pythonhosted" + ".org",
	}
	hostOfURL = regexp.MustCompile(`https?://(?:[^/@\s]*@)?([A-Za-z0-9.-]+)`)
)

// packageHosts returns the hosts of package registries that are configured on this machine, except
// public ones, which sources and documents may name.
func packageHosts(t *testing.T) []string {
	t.Helper()
	var texts []string
	if out, err := exec.Command("go", "env", "GOPROXY").Output(); err == nil {
		texts = append(texts, string(out))
	}
	for _, pattern := range []string{"/etc/apt/sources.list", "/etc/apt/sources.list.d/*", "/etc/pip.conf", "/etc/npmrc"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			if b, err := os.ReadFile(n); err == nil { // skip unreadable files
				texts = append(texts, string(b))
			}
		}
	}
	var hosts []string
	for _, m := range hostOfURL.FindAllStringSubmatch(strings.Join(texts, "\n"), -1) {
		host := strings.ToLower(m[1])
		public := false
		for _, domain := range []string{"debian.org", "ubuntu.com", "golang.org", "pypi.org", "npmjs.org", "github.com", "microsoft.com", "docker.com"} {
			public = public || host == domain || strings.HasSuffix(host, "."+domain)
		}
		if !public && strings.Contains(host, ".") && !slices.Contains(hosts, host) {
			hosts = append(hosts, host)
		}
	}
	return hosts
}

// machineSpecific returns the paths and registry hosts in text that are specific to one machine.
func machineSpecific(text string, hosts []string) []string {
	var out []string
	for line := range strings.SplitSeq(text, "\n") {
		if machinePath.MatchString(line) {
			out = append(out, "a path that is specific to one machine: "+strings.TrimSpace(line))
		}
		for _, h := range hosts {
			if strings.Contains(line, h) {
				out = append(out, "a registry's host name: "+h)
			}
		}
	}
	return out
}

// TestNothingOfOneMachineIsTracked fails on tracked files that contain paths or registry hosts of one
// machine.
func TestNothingOfOneMachineIsTracked(t *testing.T) {
	hosts := append(slices.Clone(registries), packageHosts(t)...)
	for _, name := range tracked(t) {
		b, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
		if os.IsNotExist(err) {
			continue // deleted, but the deletion is not committed yet
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, what := range machineSpecific(string(b), hosts) {
			t.Errorf("%s contains %s", name, what)
		}
	}
	bad := "cd /wo" + "rk/main && curl https://deb.debian" + ".org/x"
	if got := machineSpecific(bad, registries); len(got) != 2 {
		t.Errorf("the rule finds %q in %q", got, bad)
	}
	if got := machineSpecific("net/wo"+"rk/main and /home/x/wo"+"rk/main", registries); len(got) != 0 {
		t.Errorf("the rule finds %q in paths that are allowed", got)
	}
}

// TestShellScriptsParse parses all shell scripts with bash -n. The lint script checks more, but a
// syntax error must fail `go test` too.
func TestShellScriptsParse(t *testing.T) {
	for _, name := range tracked(t) {
		if !strings.HasSuffix(name, ".sh") {
			continue
		}
		p := filepath.Join(root, filepath.FromSlash(name))
		if _, err := os.Stat(p); os.IsNotExist(err) {
			continue
		}
		if out, err := exec.Command("bash", "-n", p).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}
