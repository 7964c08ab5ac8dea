package hostexec

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"
)

func put(t *testing.T, dir, rel, text string) {
	t.Helper()
	p := filepath.Join(dir, rel)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func scan(t *testing.T, dir string) List {
	t.Helper()
	l, err := Scan(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func paths(l List) []string {
	var out []string
	for _, f := range l.Files {
		out = append(out, f.Path)
	}
	return out
}

func TestMatch(t *testing.T) {
	for rel, want := range map[string]Kind{
		".git/hooks/pre-commit": Silent, ".git/hooks/pre-commit.sample": "", ".git/config": Silent, ".git": Silent, "sub/.git/config": Silent,
		".git/modules/lib/hooks/post-checkout": Silent, ".git/HEAD": "", ".git/index": "", ".git/objects/info/alternates": "",
		".vscode/tasks.json": Silent, "a/.vscode/settings.json": Silent, ".vscode/notes.txt": "", ".envrc": Silent, ".husky/_/husky.sh": Silent,
		".devcontainer/Dockerfile": Silent, ".claude/settings.json": Silent, "x.code-workspace": Silent,
		"Makefile": Asked, "GNUmakefile": Asked, "a/b/package.json": Asked, "Justfile": Asked, "vite.config.ts": Asked, ".eslintrc.cjs": Asked,
		"config.ts": "", "conftest.py": Asked, "setup.py": Asked, "gradlew": Asked, "CMakeLists.txt": Asked, ".cargo/config.toml": Asked,
		".helix/languages.toml": Silent, ".helix/themes/x.toml": "", ".lazy.lua": Silent, "mise.local.toml": Silent, "a/.mise.local.toml": Silent, "mise.prod.toml": Silent, "promise.toml": "",
		".config/mise/conf.d/x.toml": Silent, "lefthook-local.yml": Silent, ".lefthook.toml": Silent, "lefthook.md": "", ".iex.exs": Silent, ".ocamlinit": Silent, ".ghci": Silent,
		".pnp.cjs": Asked, ".claude/hooks/x.sh": Silent, ".claude/settings.local.json": Silent, "CLAUDE.md": "", ".roo/mcp.json": Silent, "x/App.csproj": Silent, "Directory.Build.props": Silent,
		"Directory.Build.targets": Silent, "b.fsproj": Silent, ".pylintrc": Asked, "setup.cfg": Asked, ".gitattributes": Silent, "sub/.gitattributes": Silent, ".gitmodules": Silent, ".lfsconfig": Silent,
		".gitconfig": Silent, ".bsp/sbt.json": Silent, "hie.yaml": Silent, ".eslintrc": Asked, ".eslintrc.json": Asked, ".prettierrc.toml": Asked, "wdio.conf.ts": Asked, "nginx.conf": "",
		"rust-toolchain.toml": Asked, "latexmkrc": Asked, "tools/bazel": Asked, "bazel": "", "conf.py": "", "docs/conf.py": Asked, ".formatter.exs": Asked, "opencode.json": Silent,
		".opencode/plugin/x.js": Silent, ".yarn/sdks/typescript/lib/tsc.js": Asked, ".yarn/cache/x.zip": "", "global.json": Asked, ".python-version": "", ".lua-format": "", "tsconfig.json": "",
		"main.go": "", "README.md": "", ".gitignore": "", "config/pre-commit": "", "hooks/pre-commit": "",
	} {
		kind, ok := Match(rel)
		if ok != (want != "") || ok && kind != want {
			t.Errorf("Match(%q) = %q, %v, want %q", rel, kind, ok, want)
		}
	}
}

// A directory that is put in place with its contents is known by its own name.
func TestMatchDir(t *testing.T) {
	for rel, want := range map[string]Kind{
		".git/hooks": Silent, ".git": Silent, "sub/.git/hooks": Silent, ".git/info": Silent, ".git/modules": Silent, ".git/modules/lib": Silent, ".git/modules/a/b": Silent,
		".git/modules/lib/hooks": Silent, ".git/worktrees": Silent, ".git/worktrees/w": Silent, ".git/objects": "", ".git/refs/heads": "", ".git/modules/lib/objects/ab": "",
		".vscode": Silent, "a/.vscode/": Silent, ".husky": Silent, ".idea": Silent, ".idea/runConfigurations": Silent, ".claude": Silent, ".kiro/settings": Silent, ".venv/bin": Silent,
		".cargo": Asked, ".mvn": Asked, ".yarn": Asked, "src": "", "hooks": "", "my.vscode": "", ".envrc": Silent, "Makefile": Asked,
	} {
		if kind, ok := MatchDir(rel); ok != (want != "") || ok && kind != want {
			t.Errorf("MatchDir(%q) = %q, %v, want %q", rel, kind, ok, want)
		}
	}
}

func TestScanFindsExecutedFiles(t *testing.T) {
	dir := t.TempDir()
	for _, rel := range []string{
		".git/HEAD", ".git/config", ".git/hooks/pre-commit", ".git/hooks/pre-push.sample", ".git/objects/aa/config", ".git/info/attributes",
		".git/modules/lib/HEAD", ".git/modules/lib/config", ".git/modules/lib/objects/x", ".git/modules/lib/refs/x", ".git/modules/lib/hooks/post-merge",
		".git/modules/deep/er/HEAD", ".git/modules/deep/er/config", ".git/modules/deep/er/objects/x", ".git/modules/deep/er/refs/x",
		".git/worktrees/w/config.worktree",
		"planted/HEAD", "planted/config", "planted/objects/x", "planted/refs/x", "planted/hooks/post-checkout",
		"Makefile", "web/package.json", "web/node_modules/dep/package.json", ".venv/bin/activate", ".venv/bin/pip", ".venv/lib/x/setup.py", "src/main.go",
	} {
		put(t, dir, rel, rel)
	}
	want := []string{
		".git/config", ".git/hooks/pre-commit", ".git/info/attributes", ".git/modules/deep/er/config", ".git/modules/lib/config", ".git/modules/lib/hooks/post-merge",
		".git/worktrees/w/config.worktree", ".venv/bin/activate", "Makefile", "planted/config", "planted/hooks/post-checkout", "web/package.json",
	}
	if got := paths(scan(t, dir)); !reflect.DeepEqual(got, want) {
		t.Fatalf("got  %q\nwant %q", got, want)
	}
}

// TestScanFollowsNoLink checks that Scan does not follow links and does not block on pipes that a
// guest can create.
func TestScanFollowsNoLink(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	put(t, outside, "hooks/post-checkout", "secret")
	put(t, outside, "Makefile", "secret")
	if err := os.Symlink(outside, filepath.Join(dir, "web")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(outside, "Makefile"), filepath.Join(dir, "Makefile")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, ".envrc"), 0o644); err != nil {
		t.Fatal(err)
	}
	done := make(chan List)
	go func() { l, _ := Scan(context.Background(), dir); done <- l }()
	var l List
	select {
	case l = <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("Scan blocks on a pipe")
	}
	if got := paths(l); !reflect.DeepEqual(got, []string{".envrc", "Makefile"}) {
		t.Fatalf("%q", got)
	}
	if l.Files[0].Type != "other" || l.Files[1].Type != "link" || l.Files[1].Sum != digest([]byte(filepath.Join(outside, "Makefile"))) {
		t.Fatalf("%+v", l.Files)
	}
	if _, err := Scan(context.Background(), filepath.Join(dir, "web")); err == nil {
		t.Fatal("Scan followed a link to a folder")
	}
}

func TestScanBounds(t *testing.T) {
	dir := t.TempDir()
	for i := range MaxFiles + 5 {
		put(t, dir, fmt.Sprintf("d%04d/Makefile", i), "x")
	}
	put(t, dir, "package.json", "{}")
	l := scan(t, dir)
	if len(l.Files) != MaxFiles || !strings.Contains(l.Cut, "1000") {
		t.Fatalf("%d files, cut %q", len(l.Files), l.Cut)
	}
	if kind := l.Files[MaxFiles-1].Path; kind != "package.json" {
		t.Fatalf("the file nearest to the top is missing: %q", kind)
	}

	big := t.TempDir()
	put(t, big, "Makefile", strings.Repeat("x", MaxBytes-10))
	put(t, big, "setup.py", strings.Repeat("y", 20))
	before := scan(t, big)
	if before.Cut == "" || before.Files[1].Sum != "" {
		t.Fatalf("cut %q, %+v", before.Cut, before.Files[1])
	}
	put(t, big, "setup.py", strings.Repeat("z", 20))
	if ch := Diff(before, scan(t, big)); len(ch) != 1 || ch[0].Path != "setup.py" {
		t.Fatalf("%+v", ch)
	}
}

func TestDiff(t *testing.T) {
	dir := t.TempDir()
	for _, rel := range []string{".envrc", "Makefile", "setup.py", "package.json", "same/Makefile"} {
		put(t, dir, rel, rel)
	}
	then := scan(t, dir)
	put(t, dir, ".git/hooks/post-checkout", "evil")
	put(t, dir, "Makefile", "evil")
	_ = os.Remove(filepath.Join(dir, "setup.py"))
	_ = os.Chmod(filepath.Join(dir, ".envrc"), 0o755)
	_ = os.Remove(filepath.Join(dir, "package.json"))
	_ = os.Symlink("/etc/passwd", filepath.Join(dir, "package.json"))
	// A list that was encoded and decoded compares the same.
	b, err := json.Marshal(then)
	if err != nil {
		t.Fatal(err)
	}
	var read List
	if err := json.Unmarshal(b, &read); err != nil || !reflect.DeepEqual(read, then) {
		t.Fatalf("%v: %+v", err, read)
	}
	want := []Change{
		{".envrc", Silent, "mode"}, {".git/hooks/post-checkout", Silent, "new"}, {"Makefile", Asked, "changed"}, {"package.json", Asked, "link"}, {"setup.py", Asked, "gone"},
	}
	if got := Diff(read, scan(t, dir)); !reflect.DeepEqual(got, want) {
		t.Fatalf("got  %v\nwant %v", got, want)
	}
	if n := scan(t, dir).Names(2); n != ".envrc, .git/hooks/post-checkout and 3 more" {
		t.Fatal(n)
	}
}

// TestPathsOfAnyBytes checks that names which are not UTF-8 survive encoding and decoding.
func TestPathsOfAnyBytes(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "a\xff\n/Makefile", "x")
	put(t, dir, `"q/Makefile`, "x")
	l := scan(t, dir)
	b, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	var read List
	if err := json.Unmarshal(b, &read); err != nil || !reflect.DeepEqual(read, l) || len(l.Files) != 2 {
		t.Fatalf("%v: %q", err, paths(read))
	}
}
