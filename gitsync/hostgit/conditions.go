package hostgit

import (
	"os"
	"path/filepath"
	"strings"

	"aivm.dev/aivm/gitsync/writable"
)

// includeNeverApplies reports whether an includeIf is certain not to apply to r: its condition
// names a folder without wildcards, and the repository is neither in that folder nor contains it.
// Every other condition counts as true, since a branch, a remote or the case of a name can change.
// git compares the path of the git directory with symbolic links resolved and as its working
// directory gives it (which is why environ removes PWD); in the condition it resolves only the
// links in the home directory's path.
func (r Repo) includeNeverApplies(condition string) bool {
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
		if writable.Within(p, dir) || writable.Within(dir, p) { // the folder may be a submodule of the repository
			return false
		}
	}
	return true
}
