package hostexec

import (
	"path"
	"slices"
	"strings"
)

// Kind tells when a host-executed file is run.
type Kind string

// The kinds.
const (
	// Silent files are run without a request of the user: by git, by a shell that enters the folder,
	// by an editor or an agent that opens it.
	Silent Kind = "silent"
	// Asked files are run when the user starts their tool: make, npm, pytest.
	Asked Kind = "asked"
)

// isExecutedDir reports whether every file added to the directory rel is run, or can at least be
// treated so because it is a tool's and not the user's work (.vscode).
func isExecutedDir(rel string) bool {
	return slices.ContainsFunc(append(append([]string{".vscode"}, silentDirs...), askedDirs...), func(d string) bool { return rel == d || strings.HasSuffix(rel, "/"+d) })
}

// Match reports whether programs on the host run or obey the file at rel, a slash-separated path
// relative to the folder. It knows only git directories named .git; Scan also finds bare
// repositories, which can have any name.
func Match(rel string) (Kind, bool) {
	rel = path.Clean(rel)
	name := path.Base(rel)
	if kind, ok := matchGit(rel); ok {
		return kind, true
	}
	known := lookup()
	ends := func(list map[string][]string) bool {
		return slices.ContainsFunc(list[name], func(p string) bool { return rel == p || strings.HasSuffix(rel, "/"+p) })
	}
	inside := func(list []string) bool {
		dir := "/" + path.Dir(rel) + "/"
		return slices.ContainsFunc(list, func(d string) bool { return strings.Contains(dir, "/"+d+"/") })
	}
	lower := strings.ToLower(name)
	suffix := func(list []string) bool {
		return slices.ContainsFunc(list, func(e string) bool { return strings.HasSuffix(lower, e) })
	}
	switch {
	case known.silent[name], ends(known.silentPaths), inside(silentDirs), suffix(silentEnds), isHookTool(name):
		return Silent, true
	case known.asked[lower], ends(known.askedPaths), inside(askedDirs), isConfigProgram(lower), suffix(askedEnds):
		return Asked, true
	}
	return "", false
}

// MatchDir is Match for what may be a directory or a link to one, which was put at rel with its contents:
// it also knows the directories that hold host-executed files, .git/hooks or .vscode.
func MatchDir(rel string) (Kind, bool) {
	rel = path.Clean(rel)
	if kind, ok := Match(rel); ok {
		return kind, true
	}
	if holdsGit(rel) {
		return Silent, true
	}
	kind, ok := Kind(""), false
	for _, d := range lookup().dirs[path.Base(rel)] {
		if (rel == d.path || strings.HasSuffix(rel, "/"+d.path)) && (!ok || d.kind == Silent) {
			kind, ok = d.kind, true
		}
	}
	return kind, ok
}

// holdsGit reports whether a directory at rel in a git directory can hold files that matchGitDir knows.
func holdsGit(rel string) bool {
	parts := strings.Split(rel, "/")
	i := slices.Index(parts, ".git")
	if i < 0 || i == len(parts)-1 {
		return false
	}
	switch parts = parts[i+1:]; parts[0] {
	case "hooks", "info":
		return len(parts) == 1
	case "worktrees":
		return len(parts) <= 2
	case "modules": // modules/NAME is a git directory, and NAME may have slashes
		return len(parts) <= 2 || !slices.ContainsFunc(parts[2:], func(p string) bool { return slices.Contains(gitData, p) })
	}
	return false
}

// isConfigProgram reports whether name is a configuration file that is a program: vite.config.ts,
// .eslintrc.cjs.
func isConfigProgram(name string) bool {
	ext := path.Ext(name)
	if !slices.Contains([]string{".js", ".cjs", ".mjs", ".ts", ".cts", ".mts"}, ext) {
		return false
	}
	stem := strings.TrimSuffix(name, ext)
	return strings.HasSuffix(stem, ".config") || strings.HasSuffix(stem, ".conf") || strings.HasPrefix(stem, ".") && strings.HasSuffix(stem, "rc")
}

// matchGit is Match for files in a directory named .git, and for a file .git, which refers to a git
// directory elsewhere.
func matchGit(rel string) (Kind, bool) {
	parts := strings.Split(rel, "/")
	i := slices.Index(parts, ".git")
	if i < 0 {
		return "", false
	}
	if i == len(parts)-1 {
		return Silent, true
	}
	return matchGitDir(strings.Join(parts[i+1:], "/"))
}

// matchGitDir is Match for a path relative to a git directory.
func matchGitDir(rel string) (Kind, bool) {
	parts := strings.Split(rel, "/")
	name := parts[len(parts)-1]
	switch {
	case len(parts) == 1 && slices.Contains([]string{"config", "config.worktree", "commondir"}, name):
		return Silent, true
	case len(parts) == 2 && parts[0] == "info" && name == "attributes":
		return Silent, true
	case len(parts) == 2 && parts[0] == "hooks":
		return Silent, !strings.HasSuffix(name, ".sample")
	case len(parts) == 3 && parts[0] == "worktrees":
		return Silent, slices.Contains([]string{"config.worktree", "commondir", "gitdir"}, name)
	case parts[0] == "modules" && len(parts) > 2:
		return matchGitDir(strings.Join(parts[2:], "/")) // modules/NAME/..., and NAME may have slashes
	}
	return "", false
}

// skipped are directories in which tools are not started: their files are run only through files
// that the lists above contain, and there can be a hundred thousand of them.
var skipped = []string{
	"node_modules", "vendor", "bower_components", "target", "dist", "__pycache__", "site-packages", ".tox", ".nox", ".cache", ".gradle", ".terraform",
}

// gitData are directories of a git directory that contain only data.
var gitData = []string{"objects", "refs", "logs", "lfs"}
