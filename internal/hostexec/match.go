package hostexec

import (
	"path"
	"slices"
	"strings"
)

// Kind says when a file runs.
type Kind string

// The kinds.
const (
	// Silent files run without being asked for: by git, by a shell that enters
	// the folder, by an editor or an agent that opens it.
	Silent Kind = "silent"
	// Asked files run when their tool is started: make, npm, pytest.
	Asked Kind = "asked"
)

// silentNames run wherever in the tree they lie.
var silentNames = []string{
	".envrc", ".autoenv.zsh", ".autoenv.sh", "mise.toml", ".mise.toml", // shells that enter
	".exrc", ".nvimrc", ".nvim.lua", ".vimrc", ".dir-locals.el", ".gdbinit", ".lldbinit", ".irbrc", ".pryrc", ".Rprofile",
	".devcontainer.json", ".mcp.json",
	".pre-commit-config.yaml", ".pre-commit-config.yml", "lefthook.yml", "lefthook.yaml", ".lefthook.yml", ".lefthook.yaml", ".overcommit.yml",
	"sitecustomize.py", "usercustomize.py",
}

// silentPaths are ends of paths that run, where the name alone says nothing.
var silentPaths = []string{
	".vscode/tasks.json", ".vscode/settings.json", ".vscode/launch.json", ".vscode/mcp.json", ".vscode/extensions.json",
	".idea/workspace.xml", ".idea/externalDependencies.xml", ".zed/settings.json", ".zed/tasks.json", ".zed/debug.json", ".fleet/run.json", ".fleet/settings.json",
	".claude/settings.json", ".claude/settings.local.json", ".cursor/mcp.json", ".cursor/hooks.json", ".gemini/settings.json", ".codex/config.toml",
	".hg/hgrc", ".jj/repo/config.toml",
	".venv/bin/activate", ".venv/bin/python", ".venv/bin/python3", ".venv/pyvenv.cfg",
	"venv/bin/activate", "venv/bin/python", "venv/bin/python3", "venv/pyvenv.cfg",
}

// silentDirs run as wholes.
var silentDirs = []string{".husky", ".githooks", ".devcontainer", ".idea/runConfigurations", ".idea/tools"}

// askedNames run when their tool is started in or above their folder.
var askedNames = []string{
	"makefile", "gnumakefile", "bsdmakefile", "justfile", ".justfile", "taskfile.yml", "taskfile.yaml", "taskfile.dist.yml", "taskfile.dist.yaml",
	"cmakelists.txt", "cmakepresets.json", "cmakeuserpresets.json", "meson.build", "configure", "configure.ac", "autogen.sh", "bootstrap", "bootstrap.sh",
	"sconstruct", "wscript", "waf", "build.ninja", "magefile.go", "build.zig", "makefile.pl", "build.pl",
	"package.json", ".npmrc", ".yarnrc", ".yarnrc.yml", ".pnpmfile.cjs", "pnpm-workspace.yaml", "bunfig.toml", "deno.json", "deno.jsonc",
	"gulpfile.js", "gulpfile.mjs", "gulpfile.ts", "gruntfile.js",
	"setup.py", "pyproject.toml", "conftest.py", "noxfile.py", "tox.ini", "tasks.py", "fabfile.py", "manage.py", "dodo.py", "pytest.ini",
	"build.rs", "cargo.toml", "rakefile", "gemfile", "guardfile", "vagrantfile", "podfile", "fastfile", "brewfile", "procfile", "tiltfile",
	"build.gradle", "build.gradle.kts", "settings.gradle", "settings.gradle.kts", "gradlew", "gradlew.bat", "gradle.properties",
	"pom.xml", "mvnw", "mvnw.cmd", "build.xml", "build.sbt", "build.sc", "mix.exs", "setup.hs", "composer.json", "project.clj", "deps.edn",
	"workspace", "workspace.bazel", "module.bazel", ".bazelrc", ".buckconfig", "dune-project", "dune",
	"dockerfile", "containerfile", "earthfile", "docker-compose.yml", "docker-compose.yaml", "compose.yml", "compose.yaml",
	"flake.nix", "shell.nix", "default.nix", ".lintstagedrc", ".lintstagedrc.json",
}

// askedPaths are ends of paths, askedDirs whole folders of the same kind.
var (
	askedPaths = []string{
		".cargo/config", ".cargo/config.toml", "gradle/wrapper/gradle-wrapper.properties", "gradle/wrapper/gradle-wrapper.jar", ".bundle/config",
	}
	askedDirs = []string{".mvn", ".yarn/releases", ".yarn/plugins"}
)

// whole says that everything put into the directory rel runs, or is at least
// nobody's own work.
func whole(rel string) bool {
	return slices.ContainsFunc(append(append([]string{".vscode"}, silentDirs...), askedDirs...), func(d string) bool { return rel == d || strings.HasSuffix(rel, "/"+d) })
}

// askedEnds are ends of names.
var askedEnds = []string{".gemspec", ".code-workspace", ".pth", ".sbt", ".mk", ".cabal"}

// Match says whether this machine's tools run the file at rel, a path with
// slashes relative to the folder. Whether it lies in a git directory, Scan
// knows: a bare repository can have any name.
func Match(rel string) (Kind, bool) {
	rel = path.Clean(rel)
	name := path.Base(rel)
	if kind, ok := matchGit(rel); ok {
		return kind, true
	}
	ends := func(list []string) bool {
		return slices.ContainsFunc(list, func(p string) bool { return rel == p || strings.HasSuffix(rel, "/"+p) })
	}
	inside := func(list []string) bool {
		return slices.ContainsFunc(list, func(d string) bool { return strings.Contains("/"+path.Dir(rel)+"/", "/"+d+"/") })
	}
	lower := strings.ToLower(name)
	switch {
	case slices.Contains(silentNames, name), ends(silentPaths), inside(silentDirs), strings.HasSuffix(name, ".code-workspace"):
		return Silent, true
	case slices.Contains(askedNames, lower), ends(askedPaths), inside(askedDirs), isConfigProgram(lower):
		return Asked, true
	}
	if slices.ContainsFunc(askedEnds, func(e string) bool { return strings.HasSuffix(lower, e) }) {
		return Asked, true
	}
	return "", false
}

// isConfigProgram knows configurations that are programs: vite.config.ts,
// .eslintrc.cjs.
func isConfigProgram(name string) bool {
	ext := path.Ext(name)
	if !slices.Contains([]string{".js", ".cjs", ".mjs", ".ts", ".cts", ".mts"}, ext) {
		return false
	}
	stem := strings.TrimSuffix(name, ext)
	return strings.HasSuffix(stem, ".config") || strings.HasPrefix(stem, ".") && strings.HasSuffix(stem, "rc")
}

// matchGit knows git's own files below a .git of that name, and a .git that is
// a file and leads elsewhere.
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

// skipped are folders nobody's tools start from: what lies there is run by what
// the list has, and there can be a hundred thousand of it.
var skipped = []string{
	"node_modules", "vendor", "bower_components", "target", "dist", "__pycache__", "site-packages", ".tox", ".nox", ".cache", ".gradle", ".terraform",
}

// gitData are the parts of a git directory that hold only data.
var gitData = []string{"objects", "refs", "logs", "lfs"}
