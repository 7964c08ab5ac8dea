package gitsync

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"aivm.dev/aivm/internal/guest"
)

// only asks what the clone has, after fetching if fetch is set.
func (p *pair) only(fetch bool) Only {
	p.t.Helper()
	ctx := p.t.(*testing.T).Context()
	h, g := p.observe()
	said, why := p.peer.Conn.Probe(ctx, OnlyProbes(p.guest))
	if fetch {
		if _, _, err := Fetch(ctx, p.peer, h, *g); err != nil {
			p.t.Fatal(err)
		}
	}
	o, err := FindOnly(ctx, *h, true, *g, News(*h, *g), said, why)
	if err != nil {
		p.t.Fatal(err)
	}
	return o
}

func paths(es []StatusEntry) (out []string) {
	for _, e := range es {
		out = append(out, e.Path)
	}
	slices.Sort(out)
	return out
}

// Each kind of work that only a clone has is found, and what is here too is not.
func TestFindOnly(t *testing.T) {
	p := newPair(t)
	p.commitH(".gitignore", "*.o\n")
	p.gitH("tag", "light")
	p.sync()
	check := func(what string, o Only, holds bool, ok bool) {
		t.Helper()
		if o.Holds() != holds || !ok || len(o.Incomplete) > 0 {
			t.Errorf("%s: %+v", what, o)
		}
	}
	o := p.only(false)
	check("a fresh clone", o, false, len(o.Lines()) == 0)

	p.gitG("checkout", "-q", "--detach")
	p.gitG("tag", "theirs")
	writeFile(t, filepath.Join(p.guest, "x.o"), "x")
	o = p.only(false)
	check("names of a commit that is here, and what git ignores", o, false, o.Ignored == 1)
	p.gitG("checkout", "-q", "main")

	p.gitG("switch", "-q", "-c", "idea")
	oid := p.commitG("idea", "x")
	p.gitG("switch", "-q", "main")
	o = p.only(false)
	check("a branch", o, true, slices.Equal(o.Branches, []string{"idea"}))
	o = p.only(true)
	check("a branch, fetched", o, false, p.gitH("rev-parse", p.remote.Name+"/idea") == oid)
	p.gitH("update-ref", "-d", "refs/remotes/"+p.remote.Name+"/idea")
	o = p.only(false)
	check("an object without a ref is not kept", o, true, slices.Equal(o.Branches, []string{"idea"}))
	p.only(true)

	p.gitG("tag", "-a", "-m", "x", "noted")
	p.gitG("notes", "add", "-m", "x")
	o = p.only(true)
	check("a tag and a note", o, true, slices.Equal(o.Refs, []string{"notes/commits", "tags/noted"}))
	p.gitG("tag", "-d", "noted")
	p.gitG("update-ref", "-d", "refs/notes/commits")

	p.gitG("checkout", "-q", "--detach")
	oid = p.commitG("loose", "x")
	o = p.only(true)
	check("a detached commit", o, true, slices.Equal(o.Commits, []string{oid}))
	p.gitG("checkout", "-q", "main")
	o = p.only(true)
	check("a commit of the reflog", o, false, o.Unreachable == 1)

	for _, n := range []string{"a b", "new\nline", "-rf", "\x1b[2J", "dir/deep"} {
		writeFile(t, filepath.Join(p.guest, n), "x")
	}
	writeFile(t, filepath.Join(p.guest, ".gitignore"), "*.o\n*.x\n")
	p.gitG("config", "status.showUntrackedFiles", "no")
	o = p.only(true)
	check("files", o, true, slices.Equal(paths(o.Files), []string{"\x1b[2J", "-rf", ".gitignore", "a b", "dir/", "new\nline"}))
	if text := strings.Join(o.Lines(), "\n"); strings.ContainsAny(text, "\x1b") || !strings.Contains(text, `new\nline`) {
		t.Errorf("shown as %q", text)
	}
	p.gitG("stash", "push", "-q", "-u", "-m", "one")
	writeFile(t, filepath.Join(p.guest, ".gitignore"), "*.o\n*.y\n")
	p.gitG("stash", "push", "-q", "-m", "two")
	o = p.only(true)
	check("stashes", o, true, slices.Equal(o.Stashes, []string{"On main: two", "On main: one"}) && len(o.Files) == 0 && o.Unreachable == 1)
	p.gitG("branch", "kept", "stash")
	o = p.only(true)
	check("a stash that was made a branch", o, true, slices.Equal(o.Stashes, []string{"On main: one"}))
	p.gitG("stash", "clear")

	tree := filepath.Join(p.s.home, "w", "tree 'x'")
	p.gitG("worktree", "add", "-q", "--detach", tree)
	o = p.only(true)
	check("a work tree with nothing of its own", o, false, true)
	writeFile(t, filepath.Join(tree, "f"), "x")
	o = p.only(true)
	check("a file in a work tree", o, true, len(o.Inside) == 1 && o.Inside[0] == Inside{Path: real(t, tree), Kind: "worktree", Files: 1})
	gitIn(t, tree, p.s.home, "add", "f")
	gitIn(t, tree, p.s.home, "commit", "-qm", "f")
	o = p.only(true)
	check("a detached commit in a work tree", o, true, len(o.Inside) == 0 && len(o.Commits) == 1)
	p.gitG("worktree", "remove", "--force", tree)

	// Repositories the agent made or cloned, ignored ones too.
	writeFile(t, filepath.Join(p.guest, ".git/info/exclude"), "/vendor\n/own\n/empty\n")
	own, clone := filepath.Join(p.guest, "own"), filepath.Join(p.guest, "vendor", "li b")
	mkdir(t, own)
	mkdir(t, filepath.Join(p.guest, "empty"))
	gitIn(t, filepath.Join(p.guest, "empty"), p.s.home, "init", "-q")
	gitIn(t, own, p.s.home, "init", "-q")
	gitIn(t, own, p.s.home, "commit", "-q", "--allow-empty", "-m", "x")
	gitIn(t, p.guest, p.s.home, "clone", "-q", own, clone)
	o = p.only(true)
	check("a repository of its own, and a clone of it", o, true, len(o.Inside) == 1 && o.Inside[0] == Inside{Path: "own", Kind: "repository", Commits: 1})
	gitIn(t, clone, p.s.home, "commit", "-q", "--allow-empty", "-m", "y")
	writeFile(t, filepath.Join(clone, "f"), "x")
	gitIn(t, clone, p.s.home, "stash", "-q", "-u")
	writeFile(t, filepath.Join(clone, "g"), "x")
	o = p.only(true)
	check("work in it", o, true, len(o.Inside) == 2 && slices.Contains(o.Inside, Inside{Path: "vendor/li b", Kind: "repository", Commits: 1, Files: 1, Stashes: 1}))

	// What git cannot read is not taken for nothing.
	writeFile(t, filepath.Join(p.guest, ".git/index"), "no index")
	writeFile(t, filepath.Join(own, ".git/index"), "no index")
	if o = p.only(true); len(o.Incomplete) != 1 || !slices.ContainsFunc(o.Inside, func(i Inside) bool { return i.Path == "own" && i.Files > 0 }) {
		t.Errorf("broken: %+v", o)
	}
}

// Commits in a submodule are counted where no remote of it has them, and those
// that came from this machine are not.
func TestOnlyInSubmodule(t *testing.T) {
	p := newPair(t)
	p.commitH("a", "x")
	sub := filepath.Join(p.host, "sub")
	mkdir(t, sub)
	gitIn(t, sub, os.Getenv("HOME"), "init", "-q")
	gitIn(t, sub, os.Getenv("HOME"), "commit", "-q", "--allow-empty", "-m", "x")
	p.gitH("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", "./sub")
	p.gitH("commit", "-qm", "sub")
	p.sync()
	h, _ := p.observe()
	if _, missing, err := CarrySubmodules(t.Context(), p.peer, *h); err != nil || len(missing) > 0 {
		t.Fatal(err, missing)
	}
	if o := p.only(true); o.Holds() {
		t.Errorf("as it came: %+v", o)
	}
	gitIn(t, filepath.Join(p.guest, "sub"), p.s.home, "commit", "-q", "--allow-empty", "-m", "y")
	o := p.only(true)
	if !slices.Contains(o.Inside, Inside{Path: "sub", Kind: "submodule", Commits: 1}) {
		t.Errorf("committed in it: %+v", o)
	}
}

// A guest that answers without end, or not at all, costs a bounded time, and its
// clone is not taken for one that has nothing.
func TestOnlyOfAHostileGuest(t *testing.T) {
	for what, script := range map[string]string{
		"floods":  `case "$*" in *status*) while :; do printf '?? %01000d\0' 1; done ;; *for-each-ref*refname\)) while :; do echo "1111111111111111111111111111111111111111 refs/x/y"; done ;; *) exec /usr/bin/git "$@" ;; esac`,
		"hangs":   `case "$*" in *status*) exec sleep 1000 ;; *) exec /usr/bin/git "$@" ;; esac`,
		"numbers": `case "$*" in *rev-list*) echo 99999999999999999999999 ;; *status*) printf 'M\0?? \033[31m\0' ;; *) exec /usr/bin/git "$@" ;; esac`,
	} {
		p := newPair(t)
		p.commitH("a", "x")
		p.sync()
		h, g := p.observe()
		p.s.path = filepath.Join(p.s.home, "evil")
		writeFile(t, filepath.Join(p.s.path, "git"), "#!/bin/sh\n"+script+"\n")
		if err := os.Chmod(filepath.Join(p.s.path, "git"), 0o755); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		began := time.Now()
		said, why := p.peer.Conn.Probe(ctx, OnlyProbes(p.guest))
		cancel()
		o, err := FindOnly(t.Context(), *h, true, *g, nil, said, why)
		if err != nil || !o.Holds() || time.Since(began) > 20*time.Second {
			t.Errorf("%s: %v %+v after %v", what, err, o, time.Since(began))
		}
		if text := strings.Join(o.Lines(), "\n"); len(text) > 10_000 || strings.Contains(text, "\x1b") {
			t.Errorf("%s: %d bytes: %.300q", what, len(text), text)
		}
	}
	// Nor is one whose answer is missing.
	if o, err := FindOnly(t.Context(), Host{}, false, Guest{State: Clone, Heads: map[string]string{}}, nil, nil, guest.ErrLost); err != nil || len(o.Incomplete) != 4 {
		t.Errorf("%v %+v", err, o)
	}
}

// What was fetched of a clone that is gone outlives the next clone of that name.
func TestKeepTracked(t *testing.T) {
	p := newPair(t)
	p.commitH("a", "x")
	p.sync()
	theirs := p.commitG("b", "x")
	p.gitG("switch", "-q", "-c", "merged")
	p.sync()
	p.gitH("branch", "mine", p.remote.Name+"/merged")
	p.gitG("switch", "-q", "-c", "idea/x")
	idea := p.commitG("c", "x")
	h, g := p.observe()
	if _, _, err := Fetch(t.Context(), p.peer, h, *g); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(p.guest); err != nil {
		t.Fatal(err)
	}
	kept, err := KeepTracked(t.Context(), *h)
	if err != nil || len(kept) != 1 || p.gitH("rev-parse", kept[0]) != idea {
		t.Fatalf("%v %v", kept, err)
	}
	// A run that was killed does it again.
	if kept, err = KeepTracked(t.Context(), *h); err != nil || len(kept) != 0 {
		t.Errorf("%v %v", kept, err)
	}
	p.sync()
	if got := p.gitH("for-each-ref", "--contains", theirs, "--format=%(refname)"); got == "" {
		t.Error("the commit of the clone before is in no ref")
	}
}
