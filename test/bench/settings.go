package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// settingsFiles are typical files at the six default paths. None has content that is filtered out,
// so that both sides send the same.
var settingsFiles = map[string]string{
	".gitconfig":                         "[user]\n\tname = Ann Other\n\temail = ann@example.org\n[alias]\n\tco = checkout\n\tlg = log --graph --oneline\n[color]\n\tui = auto\n",
	".gitignore":                         strings.Repeat("*.swp\nnode_modules/\n.DS_Store\n", 20),
	".config/Code/User/settings.json":    "{\n" + strings.Repeat("  // a setting\n", 40) + "  \"editor.tabSize\": 3,\n  \"editor.rulers\": [80, 120],\n  \"files.eol\": \"\\n\"\n}\n",
	".config/Code/User/keybindings.json": "[\n" + strings.Repeat("  { \"key\": \"ctrl+k\", \"command\": \"noop\" },\n", 40) + "]\n",
	".tmux.conf":                         strings.Repeat("set -g mouse on\nbind-key C-a send-prefix\n", 20),
	".bashrc":                            strings.Repeat("alias ll='ls -l'\nexport EDITOR=vim\n", 100),
}

// measureSettings compares the first transfer of settings with tar of the same files over ssh, and
// a warm `code .` with unchanged settings with one without settings.
func (b *bench) measureSettings(w *world) error {
	var names []string
	for name, text := range settingsFiles {
		path := filepath.Join(w.home, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
		names = append(names, name)
	}
	defer func() {
		for _, name := range names {
			_ = os.Remove(filepath.Join(w.home, name))
		}
	}()
	forget := func() error {
		_, _, err := w.login("rm -rf .local/state/aivm/sync .vscode-server/data .bashrc.aivm-* .config/Code " + strings.Join(names, " "))
		return err
	}
	b.say("first transfer of settings compared with tar | ssh tar, %d pairs", b.warm)
	var first pairs
	for range b.warm {
		err := first.take(func() (time.Duration, error) {
			if err := forget(); err != nil {
				return 0, err
			}
			out, d, err := w.aivm(b.ctx, w.project(), "vm", "sync-settings", w.vm)
			if err == nil && !strings.Contains(out, "copied 4, merged 1") {
				err = fmt.Errorf("not all settings were sent: %s", out)
			}
			return d, err
		}, func() (time.Duration, error) {
			if err := forget(); err != nil {
				return 0, err
			}
			line := "tar -c -C " + w.home + " " + strings.Join(names, " ") + " | ssh -F " + filepath.Join(w.home, ".ssh/config") + " -o BatchMode=yes " + w.vm + " tar -x"
			_, d, err := w.run(b.ctx, w.home, nil, "sh", "-c", line)
			return d, err
		})
		if err != nil {
			return err
		}
	}
	r := first.ratio()
	b.table.add(figure{
		fmt.Sprintf("first transfer of six settings, median of %d pairs", b.warm), seconds(median(first.aivm)),
		"tar | ssh tar " + seconds(median(first.reference)), ratio(r), "<= 1.2", "",
	}, r <= 1.2)

	b.say("warm `code .` with unchanged settings compared with one without, %d pairs", b.warm)
	code := func(args ...string) func() (time.Duration, error) {
		return func() (time.Duration, error) {
			_, d, err := w.run(b.ctx, w.project(), quick, append([]string{w.program("aivm"), "code", "."}, args...)...)
			return d, err
		}
	}
	for range 2 { // the first run also sends the settings of the editor in use
		if _, err := code("--sync-settings")(); err != nil {
			return err
		}
	}
	logins := `sudo -n journalctl -u ssh -o cat --no-pager | grep -c 'Accepted publickey'`
	before, _, err := w.login(logins)
	if err != nil {
		return err
	}
	var warm pairs
	for range b.warm {
		if err := warm.take(code("--sync-settings"), code("--sync-settings=false")); err != nil {
			return err
		}
	}
	after, _, err := w.login(logins)
	if err != nil {
		return err
	}
	var was, now int
	if _, err := fmt.Sscan(before, &was); err != nil {
		return err
	}
	if _, err := fmt.Sscan(after, &now); err != nil {
		return err
	}
	r = warm.ratio()
	b.table.add(figure{
		fmt.Sprintf("warm code with unchanged settings, median of %d pairs", b.warm), seconds(median(warm.aivm)),
		"without " + seconds(median(warm.reference)), ratio(r), "<= 1.1", "",
	}, r <= 1.1)
	n := now - was - 1 - 2*b.warm
	b.table.add(figure{name: "  further logins", value: fmt.Sprint(n), limit: "0"}, n == 0)
	return nil
}
