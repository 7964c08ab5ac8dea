package share

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/internal/ui"
)

// aHome creates a home with ordinary projects and with a repository of dotfiles that links
// in the home point into.
func aHome(t *testing.T) (home string, env map[string]string) {
	t.Helper()
	base, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	home = filepath.Join(base, "home", "u")
	for _, d := range []string{
		"hard/deep",
		"code/p/src", "code/tool/bin", "code/venv/.venv/bin", "code/py/src", "dots/fish", "dots/nvim", "dots2/x", "dots3/conf", "sourced", "bin/proj", ".local/bin", "go/src/p", "notes",
		".config/autostart", ".config/fish/conf.d", ".config/systemd/user", ".config/nvim/lua", ".config/app", ".claude", ".cargo", "keys", "gitdots", "opt/self", "way", "sys/ok",
		"xdg/autostart", "zdot", "elsewhere", "onpath/bin", "linked",
	} {
		if err := os.MkdirAll(filepath.Join(home, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"dots/bashrc", "dots3/conf/tmux.conf", "keys/credentials", "sourced/aliases", "opt/self/aivm", "code/tool/bin/tool", "gitdots/gitconfig", "linked/gdb"} {
		if err := os.WriteFile(filepath.Join(home, f), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(home, ".zshrc"), []byte("alias p='cd ~/code/p'\nif true; then\n [ -f ~/x ] && . \"$HOME/sourced/aliases\"; fi\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(filepath.Join(home, ".vimrc"), nil, 0o644), os.Link(filepath.Join(home, ".vimrc"), filepath.Join(home, "hard/deep/vimrc"))); err != nil {
		t.Fatal(err)
	}
	for at, to := range map[string]string{
		".bashrc": "dots/bashrc", ".config/fish/config.fish": "../../dots/fish/c", ".aws/config": "../keys/credentials", ".local/bin/tool": "../../code/tool/bin/tool",
		".gitconfig": "way/in/gitconfig", "way/in": "../gitdots", ".tmux.conf": "dots2/x/../../dots3/conf/tmux.conf", "elsewhere/.zshenv": "../zdot/env", ".config/nvim/lua/own.lua": "../../../dots/nvim/own.lua",
		".ssh/config": "../sys/ok/config", ".gdbinit": home + "/linked/gdb",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(home, at)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, filepath.Join(home, at)); err != nil {
			t.Fatal(err)
		}
	}
	return home, map[string]string{
		"PATH": ".:" + home + "/code/venv/.venv/bin:" + home + "/onpath/bin:" + home + "/.local/bin", "VIRTUAL_ENV": home + "/code/venv/.venv",
		"PYTHONPATH": home + "/code/py/src", "XDG_CONFIG_HOME": home + "/xdg", "ZDOTDIR": home + "/elsewhere", "EDITOR": "vi -p",
	}
}

func TestLeadsIntoAFolder(t *testing.T) {
	home, env := aHome(t)
	p := Person{Home: home, Getenv: func(n string) string { return env[n] }, Self: home + "/opt/self/aivm"}
	const acts, keys, fine, self = "acts", "keys", "fine", "self"
	for _, tc := range []struct{ folder, want, says string }{
		{"code/p", fine, ""},
		{"code/p/src", fine, ""},
		{"code/venv", fine, ""},
		{"code/py", fine, ""},
		{"notes", fine, ""},
		{"go/src/p", fine, ""},
		{"bin/proj", fine, ""},
		{".config/app", fine, ""},
		{"dots", acts, "~/.bashrc leads to " + home + "/dots/bashrc"},
		{"dots/fish", acts, "~/.config/fish/config.fish leads to " + home + "/dots/fish/c"},
		{"dots/nvim", acts, "~/.config/nvim/lua/own.lua leads to"},
		{"dots2", acts, "~/.tmux.conf leads to " + home + "/dots2/x"},
		{"dots3/conf", acts, "~/.tmux.conf leads to"},
		{"way", acts, "~/.gitconfig leads to " + home + "/way/in"},
		{"gitdots", acts, "~/.gitconfig leads to"},
		{"hard", acts, "~/.vimrc is the same file as " + home + "/hard/deep/vimrc"},
		{"linked", acts, "~/.gdbinit leads to"},
		{"sys", acts, "~/.ssh/config leads to"},
		{"sourced", acts, "/sourced/aliases, which ~/.zshrc sources, lies in it"},
		{"zdot", acts, "~/elsewhere/.zshenv leads to"},
		{"elsewhere", acts, "~/elsewhere/.zshenv lies in it"},
		{".config/autostart", acts, "~/.config/autostart is this folder"},
		{"xdg", acts, ""},
		{"xdg/autostart", acts, "~/xdg/autostart is this folder"},
		{".config/systemd/user", acts, "~/.config/systemd holds it"},
		{".config/fish", acts, "~/.config/fish is this folder"},
		{".config/fish/conf.d", acts, "~/.config/fish holds it"},
		{".config/nvim/lua", acts, "~/.config/nvim holds it"},
		{".local/bin", acts, "~/.local/bin is this folder"},
		{"bin", acts, "~/bin is this folder"},
		{"go", acts, "~/go/bin lies in it"},
		{"onpath", acts, "/onpath/bin on PATH lies in it"},
		{"onpath/bin", acts, "/onpath/bin on PATH is this folder"},
		{"code/tool", acts, "~/.local/bin/tool leads to " + home + "/code/tool/bin/tool"},
		{"code", acts, "~/.local/bin/tool leads to"},
		{"keys", keys, "~/.aws/config leads to"},
		{".claude", keys, "~/.claude is this folder"},
		{".cargo", keys, "~/.cargo is this folder"},
		{"opt", self, "/opt/self/aivm"},
		{"opt/self", self, "/opt/self/aivm"},
	} {
		folder := filepath.Join(home, tc.folder)
		for _, writable := range []bool{true, false} {
			want := tc.want
			if want == acts && tc.folder == "xdg" {
				want = keys // XDG_CONFIG_HOME also holds credentials
			} else if !writable && want != keys {
				want = fine // a read-only folder affects nothing
			}
			_, err := RefuseLeads(folder, p, writable, nil)
			switch e := new(ui.Error); {
			case want == fine:
				if err != nil {
					t.Errorf("%s, writable %v: %v", tc.folder, writable, err)
				}
				continue
			case !errors.As(err, &e) || e.Kind != "refused" || !strings.Contains(err.Error(), tc.says):
				t.Errorf("%s, writable %v: %v, want %s: %q", tc.folder, writable, err, want, tc.says)
				continue
			case want == acts && !strings.Contains(e.HintLines()[0], "--access ro"):
				t.Errorf("%s: hints %q", tc.folder, e.HintLines())
			}
			if _, err := RefuseLeads(folder, p, writable, []string{home + "/code/p", folder}); (err == nil) == (want == self) {
				t.Errorf("%s with --allow-sensitive: %v", tc.folder, err)
			}
		}
	}
	for folder, says := range map[string]string{"code/venv": "/code/venv/.venv/bin on PATH lies in it", "code/py": "/code/py/src on PYTHONPATH lies in it", "notes": `"." on PATH`} {
		found, err := RefuseLeads(filepath.Join(home, folder), p, true, nil)
		if err != nil || !strings.Contains(NameLeads(found.Active), says) {
			t.Errorf("%s: %v, %v", folder, found.Active, err)
		}
	}
}

// TestLeadsByAnotherMount checks that a directory is recognised under the name of a second
// mount.
func TestLeadsByAnotherMount(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test mounts: run it as root")
	}
	home, env := aHome(t)
	other := filepath.Join(filepath.Dir(home), "other")
	if err := os.Mkdir(other, 0o755); err != nil {
		t.Fatal(err)
	}
	for folder, below := range map[string]string{"dots": "", ".config/fish": "/conf.d"} {
		if err := unix.Mount(filepath.Join(home, folder), other, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		_, err := RefuseLeads(other+below, Person{Home: home, Getenv: func(n string) string { return env[n] }}, true, nil)
		if uerr := unix.Unmount(other, 0); uerr != nil {
			t.Fatal(uerr)
		}
		if err == nil {
			t.Errorf("%s, mounted elsewhere, was accepted", folder)
		}
	}
}
