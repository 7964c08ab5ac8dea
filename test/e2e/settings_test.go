package e2e

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// settings syncs a user's settings to the guest and opens a folder in test/fakecode, in a fork of
// Visual Studio Code (also test/fakecode), and in `make test-long` in code-server with a real browser.
func (f *firstVM) settings(t *testing.T) {
	w, vm := f.w, f.vm
	project := filepath.Join(w.home, "work", "p")
	write(t, filepath.Join(project, "page.txt"), "from the host\n", 0o644)
	write(t, filepath.Join(project, ".vscode/extensions.json"), `{"recommendations": ["golang.go"]}`, 0o644)
	step := w.steps()
	step("settings are in the guest after the first launch", func(t *testing.T) { checkArrival(t, w, vm, project) })
	step("git in the guest has the files of the configuration", func(t *testing.T) { checkGit(t, w, vm) })
	step("unchanged settings are not sent again", func(t *testing.T) { checkNothingSent(t, w, vm, project, f.bridge) })
	step("changes made in the guest are kept", func(t *testing.T) { checkKept(t, w, vm) })
	step("vm sync-settings", func(t *testing.T) { checkSyncVerb(t, w, vm) })
	step("a fork", func(t *testing.T) { checkFork(t, w, vm, project) })
	if longRun {
		// With an emulated CPU it takes minutes until code-server and its page have loaded.
		step("a browser", func(t *testing.T) { checkBrowser(t, w, vm, project) })
	}
}

func dotfiles(t *testing.T, w *world) {
	write(t, filepath.Join(w.home, ".gitconfig"), "[user]\n\tname = Ann Other\n\temail = ann@example.org\n\tsigningkey = ABC\n[credential]\n\thelper = store\n[core]\n\tfsmonitor = /usr/bin/x\n[alias]\n\tco = checkout\n[commit]\n\ttemplate = ~/.config/commit template\n", 0o640)
	write(t, filepath.Join(w.home, ".config/commit template"), "why?\n", 0o644)
	write(t, filepath.Join(w.home, ".config/git/ignore"), "*.ignored\n", 0o644)
	write(t, filepath.Join(w.home, ".gitignore"), "*.swp\n", 0o644)
	write(t, filepath.Join(w.home, ".tmux.conf"), "set -g mouse on\n", 0o600)
	write(t, filepath.Join(w.home, ".bashrc"), "alias ll='ls -l'\nexport GITHUB_TOKEN=gh"+"p_R7kQ2mV9xT4bN8cZ1wJ6hL3pD5sF0gYa2Eu\n", 0o644)
	write(t, filepath.Join(w.home, ".config/Code/User/settings.json"), "{\n  // mine\n  \"editor.fontSize\": 37,\n  \"workbench.startupEditor\": \"none\",\n  \"window.zoomLevel\": 1,\n}\n", 0o644)
	write(t, filepath.Join(w.home, ".config/Code/User/keybindings.json"), "[]\n", 0o644)
	big := make([]byte, 200<<10)
	for i := range big {
		big[i] = "abcdefghijklmnopqrstuvwxyz \n"[rand.IntN(28)]
	}
	write(t, filepath.Join(w.home, ".config/tool/big.txt"), string(big), 0o755)
}

const syncPaths = "~/.gitconfig,~/.gitignore,~/.config/Code/User/settings.json,~/.config/Code/User/keybindings.json,~/.tmux.conf,~/.bashrc,~/.config/tool"

func checkArrival(t *testing.T, w *world, vm, project string) {
	dotfiles(t, w)
	r := w.run(project, nil, []string{"FAKECODE_QUICK=1"}, filepath.Join(bin, "aivm"), "code", ".", "--sync-paths", syncPaths, "--yes")
	if r.code != 0 || !strings.Contains(r.stderr, ".bashrc:2: a GitHub token") || strings.Contains(r.stderr, "R7kQ2m") || !strings.Contains(r.stderr, "golang.go") {
		t.Fatalf("%+v", r)
	}
	got := w.guest(vm, `stat -c '%n %a %U %s' .gitconfig .gitignore .tmux.conf .config/tool/big.txt; ls -d .config/Code 2>/dev/null; head -c 3 .bashrc; git config user.email; git config --list | grep -cE 'credential|signingkey|fsmonitor'; git config alias.co; cat .vscode-server/data/Machine/settings.json`)
	want := fmt.Sprintf(".gitconfig 640 agent %%s\n.gitignore 644 agent 6\n.tmux.conf 600 agent 16\n.config/tool/big.txt 755 agent %d\n# ~ann@example.org\n0\ncheckout\n{\n  // mine\n  \"editor.fontSize\": 37,\n  \"workbench.startupEditor\": \"none\",\n}", 200<<10)
	size := strings.TrimSpace(strings.SplitN(strings.TrimPrefix(got, ".gitconfig 640 agent "), "\n", 2)[0])
	if got != strings.Replace(want, "%s", size, 1) {
		t.Errorf("the guest has\n%s", got)
	}
	for _, f := range []string{".gitignore", ".tmux.conf", ".config/tool/big.txt"} {
		b, err := os.ReadFile(filepath.Join(w.home, f))
		if err != nil {
			t.Fatal(err)
		}
		if r := w.ssh(nil, vm, "cat "+f); r.stdout != string(b) {
			t.Errorf("%s differs in the guest", f)
		}
	}
}

// checkGit commits in the guest, with the template and the ignored files of the host.
func checkGit(t *testing.T, w *world, vm string) {
	got := w.guest(vm, `rm -rf g && git init -q g && cd g && touch f x.ignored && GIT_EDITOR='sh -c "echo done >>\"\$1\"" sh' git commit -q --allow-empty && git log --format=%s:%b && git status --porcelain; rm -rf ~/g`)
	if got != "why?:done\n\n?? f" {
		t.Errorf("git in the guest: %q", got)
	}
}

// received returns how many bytes the host sent to the VM, by the kernel's counter of the bridge,
// which only this VM uses.
func received(t *testing.T, bridge string) int {
	t.Helper()
	b, err := os.ReadFile("/sys/class/net/" + bridge + "/statistics/tx_bytes")
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// checkNothingSent tests that a repeated run compares the settings but does not send the 200 KB
// file again, does not write the files in the guest, and logs in once.
func checkNothingSent(t *testing.T, w *world, vm, project, bridge string) {
	state := func() string {
		return w.login(vm, `stat -c '%n %i %z' .gitconfig .tmux.conf .config/tool/big.txt .local/state/aivm/sync; sudo -n journalctl -u ssh -o cat --no-pager | grep -c 'Accepted publickey'`)
	}
	quick := []string{"FAKECODE_QUICK=1"}
	aivm := filepath.Join(bin, "aivm")
	w.run(project, nil, quick, aivm, "code", ".", "--sync-paths", syncPaths) // finishes what the first run left to the second
	was := state()
	runs, more := 0, 1<<20
	for ; runs < 6 && more > 8<<10; runs += 2 {
		before := received(t, bridge)
		r := w.run(project, nil, quick, aivm, "code", ".", "--sync-paths", syncPaths)
		sent := received(t, bridge) - before
		if r.code != 0 || strings.Contains(r.stderr, "Settings:") || strings.Contains(r.stderr, "copy your settings") {
			t.Errorf("%+v", r)
		}
		before = received(t, bridge)
		w.run(project, nil, quick, aivm, "code", ".")
		plain := received(t, bridge) - before
		t.Logf("warm with settings %d bytes, without %d", sent, plain)
		more = sent - plain // on a busy host TCP retransmits some of it
	}
	if more > 8<<10 {
		t.Errorf("%d bytes more than without settings", more)
	}
	now := state()
	cut := func(s string) (string, int) {
		i := strings.LastIndexByte(s, '\n')
		n, err := strconv.Atoi(s[i+1:])
		if err != nil {
			t.Fatal(err)
		}
		return s[:i], n
	}
	wasFiles, wasLogins := cut(was)
	nowFiles, nowLogins := cut(now)
	if wasFiles != nowFiles {
		t.Errorf("files were written again:\n%s\n%s", wasFiles, nowFiles)
	}
	if n := nowLogins - wasLogins - 1; n != runs { // one login is that of state
		t.Errorf("%d logins for %d runs", n, runs)
	}
}

func checkKept(t *testing.T, w *world, vm string) {
	w.guest(vm, `echo "agent's" >.tmux.conf; printf '{\n  // mine\n  "editor.fontSize": 37,\n  "guest.own": true // why\n}\n' >.vscode-server/data/Machine/settings.json`)
	write(t, filepath.Join(w.home, ".config/Code/User/settings.json"), "{\n  \"editor.fontSize\": 37,\n  \"workbench.startupEditor\": \"none\",\n  \"editor.tabSize\": 3\n}\n", 0o644)
	r := w.must("", "vm", "sync-settings", "--paths", "~/.tmux.conf,~/.config/Code/User/settings.json", "--overwrite=false")
	if !strings.Contains(r.stdout, "skipped_exists 1") || w.guest(vm, "cat .tmux.conf") != "agent's" {
		t.Errorf("%+v", r)
	}
	if got := w.guest(vm, "cat .vscode-server/data/Machine/settings.json"); got != "{\n  // mine\n  \"editor.fontSize\": 37,\n  \"guest.own\": true, // why\n  \"editor.tabSize\": 3\n}" {
		t.Errorf("merged to\n%s", got)
	}
	w.must("", "vm", "sync-settings", "--paths", "~/.tmux.conf")
	if got := w.guest(vm, "cat .tmux.conf .tmux.conf.aivm-*"); got != "set -g mouse on\nagent's" {
		t.Errorf("%q", got)
	}
}

func checkSyncVerb(t *testing.T, w *world, vm string) {
	r := w.must("", "vm", "sync_settings", "--paths", "~/.gitconfig,~/nope")
	if !strings.Contains(r.stdout, "skipped_missing 1") {
		t.Errorf("%+v", r)
	}
	if r := w.aivm("", "vm", "sync-settings", "--paths", "~/.bashrc"); r.code != 2 || !strings.Contains(r.stderr, "--allow-secret") {
		t.Errorf("a secret: %+v", r)
	}
	r = w.must("", "vm", "sync-settings", "--paths", "~/.bashrc", "--dry-run")
	if strings.Contains(w.guest(vm, "cat .bashrc"), "ghp_") {
		t.Error("a dry run sent .bashrc")
	}
	_ = r
}

// checkFork tests the editor Cursor: its substitute opens the folder, and its server in the guest
// gets Cursor's settings.
func checkFork(t *testing.T, w *world, vm, project string) {
	cursor := filepath.Join(w.home, ".local/bin/cursor")
	write(t, cursor, "#!/bin/sh\nexec "+filepath.Join(bin, "code")+" \"$@\"\n", 0o755)
	write(t, filepath.Join(w.home, ".config/Cursor/User/settings.json"), "{ \"editor.tabSize\": 5 }\n", 0o644)
	r := w.run(project, nil, []string{"FAKECODE_WRITE=from-cursor"}, filepath.Join(bin, "aivm"), "code", ".", "--editor", "cursor", "--sync-paths", "~/.config/Code/User/settings.json")
	if r.code != 0 {
		t.Fatalf("%+v", r)
	}
	if rec := w.opened(); rec.Error != "" || rec.Path != project || !rec.Forward {
		t.Errorf("%+v", rec)
	}
	if _, err := os.Stat(filepath.Join(project, "from-cursor")); err != nil {
		t.Error(err)
	}
	if got := w.guest(vm, "cat .cursor-server/data/Machine/settings.json"); got != `{ "editor.tabSize": 5 }` {
		t.Errorf("%q", got)
	}
	if r := w.must(project, "code", ".", "--editor", "print", "--json"); !strings.Contains(r.stdout, "vscode-remote://ssh-remote+"+vm) || !strings.Contains(r.stdout, "jetbrains-gateway://") {
		t.Errorf("%+v", r)
	}
}

// checkBrowser opens the folder in a real code-server in the guest and a real Chromium on the host.
func checkBrowser(t *testing.T, w *world, vm, project string) {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	b := newBrowser(t)
	c := exec.CommandContext(ctx, filepath.Join(bin, "aivm"), "code", ".", "--editor", "code-server", "--yes", "--sync-paths", "~/.config/Code/User/settings.json")
	c.Dir, c.Env = project, append(w.env, "BROWSER="+fakeBrowser(t, w))
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	c.Stderr = &stderr
	began := time.Now()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	url := ""
	if lines := bufio.NewScanner(out); lines.Scan() {
		url = strings.TrimSpace(lines.Text())
	}
	go func() { ended <- c.Wait() }()
	if !regexp.MustCompile(`^http://aivm-[0-9a-f]{20}\.localhost:\d+/$`).MatchString(url) {
		cancel()
		<-ended
		t.Fatalf("stdout is not an address without a token: %q\n%s", url, &stderr)
	}
	t.Logf("code-server is served after %v", time.Since(began).Round(time.Second))
	checkOpened(t, w, b, url)
	checkOrigins(t, w, vm, b, url)
	checkEdit(t, b, project)
	t.Logf("screenshot: %s, %v in all", b.shot("code-server"), time.Since(began).Round(time.Second))
	// Only ports of node: systemd-resolved listens on others.
	if got := w.guest(vm, `sudo -n ss -Hltnp | grep '"node"' | grep -vc ' 127\.0\.0\.1:' || true`); got != "0" {
		t.Errorf("code-server listens on %s ports besides loopback", got)
	}
	if err := c.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("after Ctrl-C: %v\n%s", err, &stderr)
		}
	case <-time.After(20 * time.Second):
		t.Error("aivm code still runs 20 s after Ctrl-C")
	}
	if st, err := os.Stat(filepath.Join(w.home, ".local/state/aivm", vm, "browser.json")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the file with the editor's address: %v %v", st, err)
	}
	if got := w.guest(vm, `sleep 2; pgrep -xc node || true`); got != "0" {
		t.Errorf("%s node processes still run in the guest", got)
	}
}

// checkEdit edits and saves a file of the folder in the browser.
func checkEdit(t *testing.T, b *browser, project string) {
	t.Helper()
	const row = `[...document.querySelectorAll('.explorer-folders-view .monaco-list-row')].find(r => r.innerText.trim() === 'page.txt')`
	// On a busy host an emulated guest may be too slow for the editor's keep-alives at first: the
	// window says that it reconnects, and a user reloads it.
	for end := time.Now().Add(6 * time.Minute); b.eval(`!!(`+row+`)`) != true && time.Now().Before(end); time.Sleep(time.Second) {
		if b.eval(`!!document.body && document.body.innerText.includes('Attempting to reconnect')`) == true {
			t.Log("reload the window")
			b.call("Page.reload", nil)
			time.Sleep(5 * time.Second)
		}
	}
	b.until("the folder's files", `!!(`+row+`)`, time.Second)
	b.doubleClick(row)
	b.until("the file", `[...document.querySelectorAll('.monaco-editor .view-line')].some(l => l.innerText.replace(/\u00a0/g, ' ').includes('from the host'))`, 2*time.Minute)
	b.until("the synced setting", `getComputedStyle(document.querySelector('.monaco-editor .view-lines .view-line span span') || document.body).fontSize === '37px'`, time.Minute)
	b.call("Input.insertText", map[string]any{"text": "edited in the browser "})
	b.until("the edit", `[...document.querySelectorAll('.monaco-editor .view-line')].some(l => l.innerText.replace(/\u00a0/g, ' ').includes('edited in the browser from the host'))`, time.Minute)
	b.key("s", "KeyS", 83, 2)
	page := filepath.Join(project, "page.txt")
	for end := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		if text, _ := os.ReadFile(page); string(text) == "edited in the browser from the host\n" {
			break
		}
		if time.Now().After(end) {
			text, _ := os.ReadFile(page)
			t.Errorf("the host folder has %q (%s)", text, b.shot("code-server-unsaved"))
			break
		}
	}
}
