package e2e

import (
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// onPairs runs the pairs that need a guest, on a running VM.
func onPairs(t *testing.T, table map[string][]string, mu *sync.Mutex) {
	w := rootWorld(t)
	const vm = "e2e-pron"
	pairConfig(t, w, vm, 9, "cpus = 2\nram_mb = 2048\n")
	write(t, filepath.Join(w.home, ".gitconfig"), "[user]\n\tname = Host\n\temail = host@example.org\n", 0o644)
	write(t, filepath.Join(w.home, ".tmux.conf"), "set -g mouse on\n", 0o644)
	repo := filepath.Join(w.home, "repo")
	git := func(args ...string) {
		t.Helper()
		if r := w.run("", nil, nil, append([]string{"git", "-C", repo}, args...)...); r.code != 0 {
			t.Fatalf("git %v: %+v", args, r)
		}
	}
	write(t, filepath.Join(repo, "a.txt"), "0\n", 0o644)
	git("init", "-q", "-b", "main")
	git("add", "-A")
	git("commit", "-q", "-m", "0")
	t.Cleanup(func() { w.t = t; w.aivm("", "vm", "delete", vm, "--yes", "--discard-work") })
	w.must("", "code", "p1", "--yes")
	w.must("", "attach", "repo", "--mode", "git", "--yes")

	p := &pairWorld{world: w, vm: vm, table: table, mu: mu}
	p.reset = func() {
		if strings.TrimSpace(domstate(vm)) != "running" {
			w.must("", "vm", "up", vm, "--yes")
		}
		config := string(mustRead(w.t, filepath.Join(w.home, ".config/aivm/config.toml")))
		if strings.Contains(config, filepath.Join(w.home, "p2")+`"`) {
			w.must("", "detach", "p2")
		}
	}
	n := 0
	commit := func() {
		n++
		write(t, filepath.Join(repo, "a.txt"), strings.Repeat("x", n)+"\n", 0o644)
		git("commit", "-q", "-am", "more")
	}
	code := pairVerb{name: "code", argv: []string{"code", "p1", "--yes"}, lock: "vm"}
	ssh := pairVerb{name: "ssh", argv: []string{"ssh", "p1", "--yes", "--", "cat", "Makefile"}, lock: "vm"}
	push := pairVerb{name: "git push", argv: []string{"git", "push", "repo"}, lock: "vm git"}
	fetch := pairVerb{name: "git fetch", argv: []string{"git", "fetch", "repo"}, lock: "vm git"}
	settings := pairVerb{name: "sync-settings", argv: []string{"vm", "sync-settings", vm, "--paths", "~/.tmux.conf"}, lock: "vm"}
	attach := pairVerb{name: "attach", argv: []string{"attach", "p2", "--yes"}, lock: "vm"}
	detach := pairVerb{name: "detach", argv: []string{"detach", "p2"}, lock: "vm", setup: []string{"attach", "p2", "--yes"}}
	up := pairVerb{name: "up", argv: []string{"vm", "up", vm, "--yes"}, lock: "vm"}
	fw := pairVerb{name: "fw apply", argv: []string{"host", "fw", "apply", "--yes"}}
	edit := pairVerb{name: "config edit", argv: []string{"config", "edit"}}
	status := pairVerb{name: "status", argv: []string{"status", "--vm", vm}}
	list := pairVerb{name: "list", argv: []string{"list"}}
	down := pairVerb{name: "down", argv: []string{"vm", "down", vm, "--yes"}, lock: "vm", disrupts: true}

	guest := []pairVerb{code, ssh, push, fetch, settings, attach, detach}
	var pairs [][2]pairVerb
	for i, a := range guest {
		for _, b := range guest[i:] {
			pairs = append(pairs, [2]pairVerb{a, b})
		}
	}
	for _, b := range []pairVerb{up, fw, edit, status, list} {
		for _, a := range guest {
			pairs = append(pairs, [2]pairVerb{a, b})
		}
	}
	for round := range pairRounds {
		for _, ab := range pairs {
			a, b := ab[0], ab[1]
			if round%2 == 1 {
				a, b = b, a
			}
			if a.name == "git push" || b.name == "git push" {
				commit()
			}
			if a.name == "sync-settings" || b.name == "sync-settings" {
				n++
				write(t, filepath.Join(w.home, ".tmux.conf"), "# "+strings.Repeat("y", n)+"\n", 0o644)
			}
			p.pair(t, a, b, round)
		}
		if r := w.run("", nil, nil, "git", "-C", repo, "fsck", "--strict"); r.code != 0 {
			t.Errorf("the repository: %+v", r)
		}
	}
	// Pairs with down cost a boot each, so they run once.
	for _, a := range guest {
		p.pair(t, a, down, 1)
	}
	p.t = t
	p.reset()
	if got := w.guest(vm, "cd "+filepath.Join(w.home, "p1")+" && cat Makefile"); got != "all:" {
		t.Errorf("after all pairs the guest reads %q", got)
	}
	// Last, delete during code.
	p.pair(t, code, pairVerb{name: "delete", argv: []string{"vm", "delete", vm, "--yes"}, lock: "vm", disrupts: true}, 2)
}
