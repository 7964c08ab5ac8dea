package hostgit

import (
	"os"
	"path/filepath"
	"strings"

	"aivm.dev/aivm/gitsync/writable"
)

// elsewhere reports whether an includeIf is sure not to hold for r: its
// condition names a folder, without wildcards, and the repository lies neither
// in it nor around it. All other conditions are taken to hold: a branch, a
// remote or the case of a name can change. git compares the names of the git
// directory, with links followed and as its working directory has it (which is
// why environ takes PWD away); in the condition only the home's are followed.
func (r Repo) elsewhere(condition string) bool {
	dir, ok := strings.CutPrefix(condition, "gitdir:")
	if !ok || !strings.HasSuffix(dir, "/") {
		return false
	}
	if below, ok := strings.CutPrefix(dir, "~/"); ok {
		home, err := filepath.EvalSymlinks(os.Getenv("HOME"))
		if err != nil || !filepath.IsAbs(home) {
			return false
		}
		dir = home + "/" + below
	}
	dir = strings.TrimSuffix(dir, "/")
	top, err := filepath.EvalSymlinks(r.Top)
	if err != nil || !filepath.IsAbs(dir) || filepath.Clean(dir) != dir || strings.ContainsAny(dir, `*?[\`) {
		return false
	}
	for _, p := range []string{r.Top, top, r.GitDir, r.CommonDir} {
		if writable.Within(p, dir) || writable.Within(dir, p) { // around it: submodules
			return false
		}
	}
	return true
}
