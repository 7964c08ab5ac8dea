package templates

import (
	"crypto/sha256"
	_ "embed" // the scripts
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
)

// The scripts that setup runs in the VM, as root.
var (
	//go:embed guest/prepare.sh
	prepareScript string
	//go:embed guest/grow.sh
	growScript string
	//go:embed guest/apt.sh
	aptScript string
	//go:embed guest/tools.sh
	toolsScript string
	//go:embed guest/node.sh
	nodeScript string
	//go:embed guest/versions.sh
	versionsScript string
	//go:embed guest/sources.sh
	sourcesScript string
	//go:embed guest/clean.sh
	cleanScript string
	//go:embed guest/warm.sh
	warmScript string
)

// defaultPackages are installed in every template that is made from an image.
var defaultPackages = []string{
	"bash", "ca-certificates", "curl", "fd-find", "file", "git", "jq", "libatomic1", "make", "openssl", "patch", "procps",
	"python3", "python3-pip", "python3-venv", "ripgrep", "sqlite3", "sudo", "tar", "xz-utils",
}

// The steps of setup that make a layer, by the names that their action IDs and layers have.
const (
	stepTools    = "tools"
	stepPackages = "packages"
	stepScript   = "script"
)

// A script of a step, with its additional environment.
type guestScript struct {
	name string
	text string
	env  []string
	// user: the script that --script names. It is run as a program (it may have any interpreter), and
	// its failure is reported as one of that file.
	user bool
}

// step is a layer to make.
type step struct {
	name    string
	digest  string
	scripts []guestScript
}

// registry is where the VM gets Node from.
type registry struct {
	URL string
	CA  []byte // certificates that its server is checked with, in PEM; nil: those of the VM
}

// steps returns the layers that a template of s consists of, in their order. disk identifies the
// disk they start from. The digest of a step covers all before it, so a changed package list
// leaves the step of the tools as it is.
func (s Spec) steps(disk string, r registry) []step {
	apt := guestScript{name: "apt", text: aptScript, env: []string{"PACKAGES=" + strings.Join(defaultPackages, " ")}}
	tools := step{name: stepTools, scripts: []guestScript{
		apt,
		{name: "tools", text: toolsScript},
		{name: "node", text: nodeScript, env: []string{"NPM_REGISTRY=" + r.URL}},
	}}
	tools.digest = digest(stepTools, disk, s.DiskGB, apt.text, apt.env, toolsScript, nodeScript, r.URL)
	return s.addSteps([]step{tools}, tools.digest)
}

// addSteps appends the steps of the user's packages and script.
func (s Spec) addSteps(out []step, parent string) []step {
	if len(s.Packages) > 0 {
		env := []string{"PACKAGES=" + strings.Join(s.Packages, " ")}
		parent = digest(stepPackages, parent, aptScript, env)
		out = append(out, step{name: stepPackages, digest: parent, scripts: []guestScript{{name: "apt", text: aptScript, env: env}}})
	}
	if s.Script != "" {
		parent = digest(stepScript, parent, s.ScriptSHA256)
		out = append(out, step{name: stepScript, digest: parent, scripts: []guestScript{{name: "script", text: string(s.text), user: true}}})
	}
	return out
}

// digest returns 32 hexadecimal digits for values that can be encoded as JSON.
func digest(of ...any) string {
	b, err := json.Marshal(append([]any{layerSchema}, of...))
	if err != nil {
		panic(err) // only strings, numbers and lists of them are passed
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}

// parseVersions reads what versions.sh prints. It is from the VM: names and values are short and
// plain, and there are at most 40.
func parseVersions(out string) map[string]string {
	plain := func(s string) bool {
		return s != "" && len(s) <= 64 && strings.IndexFunc(s, func(r rune) bool {
			return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && !strings.ContainsRune(".+~-", r)
		}) < 0
	}
	vs := map[string]string{}
	for l := range strings.Lines(out) {
		k, v, ok := strings.Cut(strings.TrimRight(l, "\r\n"), "=")
		if ok && plain(k) && plain(v) && len(vs) < 40 {
			vs[k] = v
		}
	}
	return vs
}

// sameList reports whether two lists have the same members.
func sameList(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}
