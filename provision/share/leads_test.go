package share

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// linkedHome creates a home with directories, and with links by path and target.
func linkedHome(t *testing.T, dirs []string, links map[string]string) string {
	t.Helper()
	base, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	home := filepath.Join(base, "home", "u")
	for _, d := range dirs {
		if err := os.MkdirAll(filepath.Join(home, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for at, to := range links {
		at = filepath.Join(home, at)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(home, to), at); err != nil {
			t.Fatal(err)
		}
	}
	return home
}

func env(m map[string]string) func(string) string { return func(n string) string { return m[n] } }

// TestLeadsBesideCredentials checks that in a directory of credentials, settings count as
// host-executed, also in subdirectories, and a link named like a setting is not a
// credential.
func TestLeadsBesideCredentials(t *testing.T) {
	links := map[string]string{
		".config/Code/User/settings.json": "dots/vscode/settings.json", ".claude/hooks/x.sh": "dots/hook/x.sh", ".config/git/hooks/pre-commit": "dots/git/pre-commit",
		".gradle/init.d/a.gradle": "dots/gradle/a.gradle", ".cargo/bin/tool": "dots/rust/tool", ".claude/skills/a/SKILL.md": "dots/skill/SKILL.md",
		".claude/CLAUDE.md": "dots/words/CLAUDE.md", ".claude/settings.json": "dots/claude/settings.json", ".codex/AGENTS.md": "dots/codex/AGENTS.md",
		".config/git/config": "dots/gitc/config", ".cargo/config.toml": "dots/cargo/config.toml", ".config/VSCodium/User": "dots/codium", "moved/init.d/b.gradle": "dots/moved/b.gradle",
		"claude/hooks/y.sh": "dots/own/y.sh", "claude/CLAUDE.md": "dots/ownwords/CLAUDE.md",
	}
	keys := map[string]string{".claude/.credentials.json": "keys/claude", ".cargo/credentials.toml": "keys/cargo", ".config/Cursor": "keys/cursor", "claude/.credentials.json": "keys/own", ".aws/config": "keys/aws"}
	all := map[string]string{}
	for _, m := range []map[string]string{links, keys} {
		for at, to := range m {
			all[at] = to
		}
	}
	home := linkedHome(t, []string{"dots", "keys"}, all)
	p := Person{Home: home, Getenv: env(map[string]string{"GRADLE_USER_HOME": home + "/moved", "CLAUDE_CONFIG_DIR": home + "/claude"})}
	for at, to := range links {
		folder := filepath.Join(home, filepath.Dir(to))
		if to == "dots/codium" {
			folder = filepath.Join(home, to)
		}
		if err := os.MkdirAll(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := RefuseLeads(folder, p, true, nil); err == nil || !strings.Contains(err.Error(), "not shared for writing") || !strings.Contains(err.Error(), filepath.Base(at)+" leads to") {
			t.Errorf("%s for writing: %v", at, err)
		}
		if _, err := RefuseLeads(folder, p, false, nil); err != nil {
			t.Errorf("%s to be read: %v", at, err)
		}
		if n := len(FindLeads(folder, p, false).HostExecuted); n != 1 {
			t.Errorf("%s was named %d times", at, n)
		}
	}
	for _, writable := range []bool{true, false} {
		if _, err := RefuseLeads(filepath.Join(home, "keys"), p, writable, nil); err == nil || !strings.Contains(err.Error(), "keys or tokens") {
			t.Errorf("keys, writable %v: %v", writable, err)
		}
	}
	if found := FindLeads(filepath.Join(home, "keys"), p, true); len(found.Keys) != len(keys) || len(found.HostExecuted) > 0 {
		t.Errorf("keys: %v", found)
	}
}

// TestLeadsInLargeDirectory checks that a directory with more entries than are searched
// hides neither links nearer to the top nor the environment, and that it is named.
func TestLeadsInLargeDirectory(t *testing.T) {
	var dirs []string
	for i := range placeEntries + 5 {
		dirs = append(dirs, fmt.Sprintf(".vim/aaa/%d", i))
	}
	home := linkedHome(t, append(dirs, "dots", "bin"), map[string]string{".vim/zzz/plugin.vim": "dots/plugin.vim"})
	p := Person{Home: home}
	found := FindLeads(filepath.Join(home, "dots"), p, false)
	if NameLeads(found.HostExecuted) != "~/.vim/zzz/plugin.vim leads to "+home+"/dots/plugin.vim" || found.Cut != "~/.vim" {
		t.Errorf("%v, cut in %q", found.HostExecuted, found.Cut)
	}
	if found := FindLeads(filepath.Join(home, "bin"), p, true); found.Cut != "" {
		t.Errorf("cut in %q", found.Cut)
	}
}

// TestLeadsOfEnvironment checks the leads by variables that hold a directory, and by an
// active environment.
func TestLeadsOfEnvironment(t *testing.T) {
	home := linkedHome(t, []string{"work/p/.venv/bin", "work/p/node_modules/.bin", "bin/proj", "code/p", "mono/.direnv/bin", "mono/part/bin", "x/bin", ".nvm/v/bin", "nvm"},
		map[string]string{"p": "work/p", "node_modules": "work/p/node_modules", ".nvm/v/tool": "nvm/tool"})
	const fine, active, acts = "", "active", "acts"
	for _, tc := range []struct {
		folder string
		env    map[string]string
		want   string
	}{
		{"work/p", map[string]string{"PATH": "/p/.venv/bin", "VIRTUAL_ENV": "/p/.venv"}, active},
		{"work/p", map[string]string{"PATH": "/work/p/.venv/bin", "VIRTUAL_ENV": "/p/.venv"}, active},
		{"work/p", map[string]string{"PATH": "/p/.venv/bin", "VIRTUAL_ENV": "/x"}, acts},
		{"work/p", map[string]string{"PATH": "/p/.venv/bin"}, acts},
		{"work/p", map[string]string{"PATH": "/p/node_modules/.bin"}, active},
		{"work/p", map[string]string{"PATH": "/node_modules/.bin"}, acts},
		{"mono/part", map[string]string{"PATH": "/mono/part/bin", "DIRENV_DIR": "-/mono"}, active},
		{"mono/part", map[string]string{"PATH": "/mono/part/bin", "CONDA_PREFIX": "/mono"}, acts},
		{"x", map[string]string{"PATH": "/x/bin", "DIRENV_DIR": "-/"}, acts},
		{"code/p", map[string]string{"CURL_HOME": "/", "GOBIN": "/bin"}, fine},
		{"bin/proj", map[string]string{"CURL_HOME": "/", "GOBIN": "/bin"}, fine},
		{"bin", map[string]string{"GOBIN": "/bin"}, acts},
		{"x", map[string]string{"CURL_HOME": "/x"}, acts},
		{"nvm", map[string]string{"NVM_DIR": "/.nvm"}, acts},
	} {
		given := map[string]string{}
		for n, v := range tc.env {
			if path, minus := strings.CutPrefix(v, "-"); minus {
				given[n] = "-" + filepath.Join(home, path)
			} else {
				given[n] = filepath.Join(home, v)
			}
		}
		found, err := RefuseLeads(filepath.Join(home, tc.folder), Person{Home: home, Getenv: env(given)}, true, nil)
		got := fine
		if err != nil {
			got = acts
		} else if len(found.Active) > 0 {
			got = active
		}
		if got != tc.want {
			t.Errorf("%s with %v: %q, want %q: %v, %v", tc.folder, tc.env, got, tc.want, err, found)
		}
	}
}
