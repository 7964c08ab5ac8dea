package hostexec

import (
	"path"
	"strings"
	"sync"
)

// silentNames are names of files that are run in any directory of the tree.
var silentNames = []string{
	// shells that enter the directory
	".envrc", ".autoenv.zsh", ".autoenv.sh", ".rvmrc", "mise.toml", ".mise.toml", "mise.local.toml", ".mise.local.toml", ".rtx.toml", ".rtx.local.toml",
	// editors and language servers that open the folder
	".exrc", ".nvimrc", ".nvim.lua", ".lazy.lua", ".vimrc", ".lvimrc", ".ycm_extra_conf.py", ".dir-locals.el", ".dir-locals-2.el", ".lite_project.lua",
	".luarc.json", ".luarc.jsonc", ".merlin", "hie.yaml", "rust-project.json", ".factorypath",
	// debuggers, interpreters and other prompts that are started in the directory
	".gdbinit", ".lldbinit", ".irbrc", ".pryrc", ".Rprofile", ".Renviron", ".RData", ".iex.exs", ".ocamlinit", ".ghci", ".pdbrc", ".perldb", ".octaverc", ".erlang",
	"sitecustomize.py", "usercustomize.py",
	// agents
	".devcontainer.json", ".mcp.json", "opencode.json", "opencode.jsonc", "crush.json", ".crush.json", ".aider.conf.yml", ".continuerc.json",
	// git and its hooks
	".gitattributes", ".gitmodules", ".gitconfig", ".lfsconfig",
	".pre-commit-config.yaml", ".pre-commit-config.yml", "prek.toml", ".overcommit.yml", ".rusty-hook.toml", "captainhook.json", "grumphp.yml", "hk.pkl",
}

// silentPaths are ends of paths of files that are run; the name alone is not specific.
var silentPaths = []string{
	".vscode/tasks.json", ".vscode/settings.json", ".vscode/launch.json", ".vscode/mcp.json", ".vscode/extensions.json", ".vscode/c_cpp_properties.json", ".vscode/cmake-kits.json",
	".theia/tasks.json", ".theia/launch.json", ".theia/settings.json",
	".idea/workspace.xml", ".idea/externalDependencies.xml", ".idea/watcherTasks.xml", ".idea/startup.xml", ".idea/gradle.xml", ".idea/ant.xml",
	".zed/settings.json", ".zed/tasks.json", ".zed/debug.json", ".fleet/run.json", ".fleet/settings.json", ".helix/languages.toml", ".helix/config.toml",
	".vim/coc-settings.json", ".lapce/settings.toml", ".lsp/config.edn",
	".claude/settings.json", ".claude/settings.local.json", ".cursor/mcp.json", ".cursor/hooks.json", ".cursor/cli.json", ".cursor/worktrees.json",
	".gemini/settings.json", ".qwen/settings.json", ".codex/config.toml", ".codex/hooks.json", ".roo/mcp.json", ".kilocode/mcp.json", ".windsurf/hooks.json",
	".amp/settings.json", ".amazonq/mcp.json", ".kiro/settings/mcp.json", ".junie/mcp/mcp.json", ".trae/mcp.json",
	".factory/mcp.json", ".factory/settings.json", ".continue/config.yaml", ".continue/config.json",
	".config/mise.toml", ".config/mise.local.toml", ".config/mise/config.toml", ".config/mise/config.local.toml", "mise/config.toml", "mise/config.local.toml",
	".mise/config.toml", ".mise/config.local.toml", ".config/lefthook.yml", ".config/lefthook.yaml", ".config/lefthook.toml", ".config/lefthook.json",
	".hg/hgrc", ".jj/repo/config.toml",
	".venv/bin/activate", ".venv/bin/python", ".venv/bin/python3", ".venv/pyvenv.cfg",
	"venv/bin/activate", "venv/bin/python", "venv/bin/python3", "venv/pyvenv.cfg",
}

// silentDirs are directories in which every file is run.
var silentDirs = []string{
	".husky", ".githooks", ".git-hooks", ".cargo-husky/hooks", ".lefthook", ".lefthook-local", ".devcontainer", ".idea/runConfigurations", ".idea/tools", ".externalToolBuilders", ".bsp",
	".claude/hooks", ".claude/commands", ".claude/agents", ".claude/skills", ".claude/plugins", ".cursor/hooks", ".gemini/commands", ".gemini/extensions", ".gemini/hooks",
	".opencode", ".clinerules/hooks", ".continue/mcpServers", ".kiro/hooks", ".amazonq/cli-agents", ".factory/hooks", ".github/hooks", ".shadowenv.d",
	".config/mise/conf.d", ".mise/conf.d",
}

// askedNames are names of files, in lower case, that are run when their tool is started in their
// directory or above it.
var askedNames = []string{
	// make and similar tools
	"makefile", "gnumakefile", "bsdmakefile", "makefile.am", "makefile.in", "kbuild", "kconfig", "justfile", ".justfile", "makefile.toml", "maskfile.md",
	"taskfile.yml", "taskfile.yaml", "taskfile.dist.yml", "taskfile.dist.yaml",
	"cmakelists.txt", "cmakepresets.json", "cmakeuserpresets.json", "meson.build", "configure", "configure.ac", "autogen.sh", "bootstrap", "bootstrap.sh",
	"sconstruct", "sconscript", "wscript", "waf", "build.ninja", "magefile.go", "build.zig", "makefile.pl", "build.pl", "dist.ini", "cpanfile", ".proverc",
	"conanfile.py", "xmake.lua", "premake4.lua", "premake5.lua", "tupfile", "tuprules.tup", "jamroot", "jamfile",
	// JavaScript
	"package.json", ".npmrc", ".yarnrc", ".yarnrc.yml", ".pnp.cjs", ".pnp.js", ".pnp.loader.mjs", ".pnpmfile.cjs", ".pnpmfile.mjs", "pnpmfile.js", "pnpm-workspace.yaml",
	"bunfig.toml", "deno.json", "deno.jsonc", "gulpfile.js", "gulpfile.mjs", "gulpfile.ts", "gruntfile.js", ".eleventy.js", ".eleventy.cjs", ".ember-cli.js",
	"ember-cli-build.js", ".sequelizerc", ".dependency-cruiser.js", ".dependency-cruiser.cjs", "truffle-config.js", "nodemon.json", "nx.json", "angular.json", "codegen.yml",
	"babel.config.json", "jest.config.json", "wrangler.toml", "wrangler.json", "wrangler.jsonc", "netlify.toml", "vercel.json", "firebase.json", "serverless.yml", "foundry.toml",
	// Python
	"setup.py", "setup.cfg", "pyproject.toml", "conftest.py", "noxfile.py", "tox.ini", "tox.toml", "tasks.py", "fabfile.py", "manage.py", "dodo.py", "pavement.py", "pytest.ini",
	".pytest.ini", "pytest.toml", ".pytest.toml", ".pylintrc", "pylintrc", ".pylintrc.toml", "pylintrc.toml", ".flake8", "mypy.ini", ".mypy.ini", ".coveragerc", "pipfile",
	"pixi.toml", "hatch.toml", "alembic.ini", ".sqlfluff", "dvc.yaml", "snakefile",
	// Rust, Go, Ruby
	"build.rs", "cargo.toml", "rust-toolchain", "rust-toolchain.toml", "trunk.toml", ".air.toml", "air.toml", ".golangci.yml", ".golangci.yaml", ".golangci.toml", ".golangci.json",
	".goreleaser.yml", ".goreleaser.yaml", "goreleaser.yml", "goreleaser.yaml", "sqlc.yaml", "buf.gen.yaml",
	"rakefile", "rakefile.rb", "gemfile", "gems.rb", "guardfile", "vagrantfile", "podfile", "fastfile", "appfile", "pluginfile", "brewfile", "procfile", "tiltfile", "capfile",
	"dangerfile", "appraisals", "steepfile", "berksfile", "thorfile", "config.ru", ".rspec", ".rubocop.yml", ".standard.yml", ".simplecov", ".yardopts", ".solargraph.yml",
	// the JVM and .NET
	"build.gradle", "build.gradle.kts", "settings.gradle", "settings.gradle.kts", "gradlew", "gradlew.bat", "gradle.properties",
	"pom.xml", "mvnw", "mvnw.cmd", "build.xml", "build.sbt", ".sbtopts", ".jvmopts", "build.sc", "build.mill", "mill", "mill.bat", "project.clj", "profiles.clj", "deps.edn", "bb.edn",
	"shadow-cljs.edn", "build.boot", "directory.build.rsp", "msbuild.rsp", "global.json", "nuget.config", "build.cake",
	// other languages
	"mix.exs", ".formatter.exs", ".credo.exs", "rebar.config", "rebar.config.script", "setup.hs", "cabal.project", "cabal.project.local", "stack.yaml",
	"composer.json", ".php-cs-fixer.php", ".php-cs-fixer.dist.php", "phpstan.neon", "phpstan.neon.dist", "psalm.xml", "phpunit.xml", "phpunit.xml.dist", "rector.php", "ecs.php",
	"castor.php", "robofile.php", ".user.ini", "dune-project", "dune-workspace", "dune", "myocamlbuild.ml", "config.nims", "nim.cfg", "dub.json", "dub.sdl", "shard.yml",
	"package.swift", "analysis_options.yaml", "pubspec.yaml", "melos.yaml", ".busted", ".luacov",
	// build systems of many languages
	"workspace", "workspace.bazel", "module.bazel", "build.bazel", ".bazelrc", ".buckconfig", "buck", "pants.toml",
	// containers, machines, environments
	"dockerfile", "containerfile", "earthfile", "docker-compose.yml", "docker-compose.yaml", "docker-compose.override.yml", "docker-compose.override.yaml", "compose.yml", "compose.yaml",
	"compose.override.yml", "compose.override.yaml", "docker-bake.hcl", "docker-bake.json", "skaffold.yaml", "devspace.yaml", "helmfile.yaml", "terragrunt.hcl", ".tflint.hcl",
	"pulumi.yaml", "ansible.cfg", ".tmuxinator.yml", ".tmuxp.yaml", ".tmuxp.yml",
	"flake.nix", "shell.nix", "default.nix", "devenv.nix", "devenv.yaml", "devenv.local.nix", "devbox.json", "nextflow.config",
	// documents
	"mkdocs.yml", "mkdocs.yaml", "book.toml", "doxyfile", "latexmkrc", ".latexmkrc", "texmf.cnf", "_quarto.yml",
	".arclint", ".arcconfig", ".simple-git-hooks.json", "simple-git-hooks.json",
}

// askedPaths are ends of paths, and askedDirs directories, of files that are run when their tool is
// started.
var (
	askedPaths = []string{
		".cargo/config", ".cargo/config.toml", "gradle/wrapper/gradle-wrapper.properties", "gradle/wrapper/gradle-wrapper.jar", ".bundle/config", ".config/dotnet-tools.json",
		".config/nextest.toml", "tools/bazel", ".phan/config.php", "config/config.exs", "config/dev.exs", "config/test.exs", "config/prod.exs", "config/runtime.exs",
		"docs/conf.py", "doc/conf.py", "docs/source/conf.py", "doc/source/conf.py", ".dvc/config", ".pixi/config.toml",
	}
	askedDirs = []string{
		".mvn", ".yarn/releases", ".yarn/plugins", ".yarn/sdks", ".storybook", "magefiles", "mise-tasks", ".mise-tasks", "mise/tasks", ".mise/tasks", ".config/mise/tasks",
	}
)

// silentEnds and askedEnds are ends of names. MSBuild projects are silent: a C# editor that opens the
// folder evaluates them to find their contents.
var (
	silentEnds = []string{".code-workspace", ".csproj", ".fsproj", ".vbproj", ".props", ".targets"}
	askedEnds  = []string{
		".gemspec", ".rake", ".pth", ".sbt", ".mk", ".mak", ".cmake", ".cabal", ".opam", ".nimble", ".rockspec", ".gradle", ".gradle.kts", ".bzl", ".vcxproj", ".proj",
		".run.xml", ".sublime-project", ".kateproject",
	}
)

// programRCs are the stems of configuration files that are programs, or that name programs to load;
// each can have any of programRCEnds: ".eslintrc", ".eslintrc.json".
var (
	programRCs = []string{
		".babelrc", ".eslintrc", ".prettierrc", ".stylelintrc", ".postcssrc", ".mocharc", ".nycrc", ".taprc", ".lintstagedrc", ".releaserc", ".commitlintrc", ".huskyrc", ".remarkrc", ".graphqlrc",
	}
	programRCEnds = []string{"", ".json", ".json5", ".jsonc", ".yml", ".yaml", ".toml"}
)

// names holds the lists above as maps, for fast lookups: a folder may have fifty thousand files.
type names struct {
	silent, asked           map[string]bool
	silentPaths, askedPaths map[string][]string // by their base name
	dirs                    map[string][]knownDir
}

// knownDir is a directory that has files of the lists.
type knownDir struct {
	path string
	kind Kind
}

var lookup = sync.OnceValue(func() names {
	n := names{silent: map[string]bool{}, asked: map[string]bool{}, silentPaths: map[string][]string{}, askedPaths: map[string][]string{}, dirs: map[string][]knownDir{}}
	for _, s := range silentNames {
		n.silent[s] = true
	}
	for _, s := range askedNames {
		n.asked[s] = true
	}
	for _, rc := range programRCs {
		for _, end := range programRCEnds {
			n.asked[rc+end] = true
		}
	}
	for _, p := range silentPaths {
		n.silentPaths[path.Base(p)] = append(n.silentPaths[path.Base(p)], p)
	}
	for _, p := range askedPaths {
		n.askedPaths[path.Base(p)] = append(n.askedPaths[path.Base(p)], p)
	}
	seen := map[string]bool{}
	add := func(dir string, kind Kind) {
		for ; dir != "." && !seen[dir]; dir = path.Dir(dir) {
			seen[dir] = true
			n.dirs[path.Base(dir)] = append(n.dirs[path.Base(dir)], knownDir{dir, kind})
		}
	}
	for _, p := range silentPaths {
		add(path.Dir(p), Silent)
	}
	for _, d := range silentDirs {
		add(d, Silent)
	}
	for _, p := range askedPaths {
		add(path.Dir(p), Asked)
	}
	for _, d := range askedDirs {
		add(d, Asked)
	}
	return n
})

// isHookTool reports whether name is a file of lefthook, or of mise for one environment:
// .lefthook-local.toml, mise.production.toml.
func isHookTool(name string) bool {
	stem := strings.TrimPrefix(name, ".")
	for _, end := range []string{".yml", ".yaml", ".toml", ".json", ".jsonc"} {
		if s, ok := strings.CutSuffix(stem, end); ok && (s == "lefthook" || s == "lefthook-local") {
			return true
		}
	}
	return strings.HasPrefix(stem, "mise.") && strings.HasSuffix(stem, ".toml")
}
