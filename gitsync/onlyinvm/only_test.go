package onlyinvm_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"aivm.dev/aivm/gitsync/carry"
	"aivm.dev/aivm/gitsync/clonetest"
	"aivm.dev/aivm/gitsync/compare"
	"aivm.dev/aivm/gitsync/gittest"
	"aivm.dev/aivm/gitsync/hostgit"
	"aivm.dev/aivm/gitsync/onlyinvm"
	"aivm.dev/aivm/gitsync/transfer"
	"aivm.dev/aivm/internal/guest"
)

// only returns what exists only in the clone, after a fetch if fetch is set.
func only(p *clonetest.Pair, fetch bool) onlyinvm.Only {
	p.T.Helper()
	ctx := p.T.(*testing.T).Context()
	h, g := p.Observe()
	answers, why := p.Peer.Conn.Probe(ctx, onlyinvm.Probes(p.Guest))
	if fetch {
		if _, _, err := transfer.Fetch(ctx, p.Peer, h, *g); err != nil {
			p.T.Fatal(err)
		}
	}
	o, err := onlyinvm.Find(ctx, *h, true, *g, compare.MovedBranches(*h, *g), answers, why)
	if err != nil {
		p.T.Fatal(err)
	}
	return o
}

func paths(es []hostgit.StatusEntry) (out []string) {
	for _, e := range es {
		out = append(out, e.Path)
	}
	slices.Sort(out)
	return out
}

// Each kind of work that exists only in a clone is found, and what the host has too is not.
func TestFindOnly(t *testing.T) {
	p := clonetest.New(t)
	p.CommitH(".gitignore", "*.o\n")
	p.GitH("tag", "light")
	p.Sync()
	check := func(what string, o onlyinvm.Only, holds bool, ok bool) {
		t.Helper()
		if o.Holds() != holds || !ok || len(o.Incomplete) > 0 {
			t.Errorf("%s: %+v", what, o)
		}
	}
	o := only(p, false)
	check("a fresh clone", o, false, len(o.Lines()) == 0)

	p.GitG("checkout", "-q", "--detach")
	p.GitG("tag", "guest-tag")
	gittest.WriteFile(t, filepath.Join(p.Guest, "x.o"), "x")
	o = only(p, false)
	check("refs to a commit the host has, and ignored files", o, false, o.Ignored == 1)
	p.GitG("checkout", "-q", "main")

	p.GitG("switch", "-q", "-c", "idea")
	oid := p.CommitG("idea", "x")
	p.GitG("switch", "-q", "main")
	o = only(p, false)
	check("a branch", o, true, slices.Equal(o.Branches, []string{"idea"}))
	o = only(p, true)
	check("a branch, fetched", o, false, p.GitH("rev-parse", p.Remote.Name+"/idea") == oid)
	p.GitH("update-ref", "-d", "refs/remotes/"+p.Remote.Name+"/idea")
	o = only(p, false)
	check("an object without a ref is not kept", o, true, slices.Equal(o.Branches, []string{"idea"}))
	only(p, true)

	p.GitG("tag", "-a", "-m", "x", "noted")
	p.GitG("notes", "add", "-m", "x")
	o = only(p, true)
	check("a tag and a note", o, true, slices.Equal(o.Refs, []string{"notes/commits", "tags/noted"}))
	p.GitG("tag", "-d", "noted")
	p.GitG("update-ref", "-d", "refs/notes/commits")

	p.GitG("checkout", "-q", "--detach")
	oid = p.CommitG("loose", "x")
	o = only(p, true)
	check("a detached commit", o, true, slices.Equal(o.Commits, []string{oid}))
	p.GitG("checkout", "-q", "main")
	o = only(p, true)
	check("a commit of the reflog", o, false, o.Unreachable == 1)

	for _, n := range []string{"a b", "new\nline", "-rf", "\x1b[2J", "dir/deep"} {
		gittest.WriteFile(t, filepath.Join(p.Guest, n), "x")
	}
	gittest.WriteFile(t, filepath.Join(p.Guest, ".gitignore"), "*.o\n*.x\n")
	p.GitG("config", "status.showUntrackedFiles", "no")
	o = only(p, true)
	check("files", o, true, slices.Equal(paths(o.Files), []string{"\x1b[2J", "-rf", ".gitignore", "a b", "dir/", "new\nline"}))
	if text := strings.Join(o.Lines(), "\n"); strings.ContainsAny(text, "\x1b") || !strings.Contains(text, `new\nline`) {
		t.Errorf("shown as %q", text)
	}
	p.GitG("stash", "push", "-q", "-u", "-m", "one")
	gittest.WriteFile(t, filepath.Join(p.Guest, ".gitignore"), "*.o\n*.y\n")
	p.GitG("stash", "push", "-q", "-m", "two")
	o = only(p, true)
	check("stashes", o, true, slices.Equal(o.Stashes, []string{"On main: two", "On main: one"}) && len(o.Files) == 0 && o.Unreachable == 1)
	p.GitG("branch", "kept", "stash")
	o = only(p, true)
	check("a stash that was made a branch", o, true, slices.Equal(o.Stashes, []string{"On main: one"}))
	p.GitG("stash", "clear")

	tree := filepath.Join(p.Server.Home, "w", "tree 'x'")
	p.GitG("worktree", "add", "-q", "--detach", tree)
	o = only(p, true)
	check("a work tree with nothing of its own", o, false, true)
	gittest.WriteFile(t, filepath.Join(tree, "f"), "x")
	o = only(p, true)
	check("a file in a work tree", o, true, len(o.Inside) == 1 && o.Inside[0] == onlyinvm.Inside{Path: gittest.Real(t, tree), Kind: "worktree", Files: 1})
	gittest.Git(t, tree, p.Server.Home, "add", "f")
	gittest.Git(t, tree, p.Server.Home, "commit", "-qm", "f")
	o = only(p, true)
	check("a detached commit in a work tree", o, true, len(o.Inside) == 0 && len(o.Commits) == 1)
	p.GitG("worktree", "remove", "--force", tree)

	// Repositories the agent created or cloned, in ignored folders too.
	gittest.WriteFile(t, filepath.Join(p.Guest, ".git/info/exclude"), "/vendor\n/own\n/empty\n")
	own, clone := filepath.Join(p.Guest, "own"), filepath.Join(p.Guest, "vendor", "li b")
	gittest.Mkdir(t, own)
	gittest.Mkdir(t, filepath.Join(p.Guest, "empty"))
	gittest.Git(t, filepath.Join(p.Guest, "empty"), p.Server.Home, "init", "-q")
	gittest.Git(t, own, p.Server.Home, "init", "-q")
	gittest.Git(t, own, p.Server.Home, "commit", "-q", "--allow-empty", "-m", "x")
	gittest.Git(t, p.Guest, p.Server.Home, "clone", "-q", own, clone)
	o = only(p, true)
	check("a repository of its own, and a clone of it", o, true, len(o.Inside) == 1 && o.Inside[0] == onlyinvm.Inside{Path: "own", Kind: "repository", Commits: 1})
	gittest.Git(t, clone, p.Server.Home, "commit", "-q", "--allow-empty", "-m", "y")
	gittest.WriteFile(t, filepath.Join(clone, "f"), "x")
	gittest.Git(t, clone, p.Server.Home, "stash", "-q", "-u")
	gittest.WriteFile(t, filepath.Join(clone, "g"), "x")
	o = only(p, true)
	check("work in it", o, true, len(o.Inside) == 2 && slices.Contains(o.Inside, onlyinvm.Inside{Path: "vendor/li b", Kind: "repository", Commits: 1, Files: 1, Stashes: 1}))

	// A repository git cannot read does not count as empty.
	gittest.WriteFile(t, filepath.Join(p.Guest, ".git/index"), "no index")
	gittest.WriteFile(t, filepath.Join(own, ".git/index"), "no index")
	if o = only(p, true); len(o.Incomplete) != 1 || !slices.ContainsFunc(o.Inside, func(i onlyinvm.Inside) bool { return i.Path == "own" && i.Files > 0 }) {
		t.Errorf("broken: %+v", o)
	}
}

// Commits in a submodule count if none of its remotes has them, and do not if they came from the
// host.
func TestOnlyInSubmodule(t *testing.T) {
	p := clonetest.New(t)
	p.CommitH("a", "x")
	sub := filepath.Join(p.Host, "sub")
	gittest.Mkdir(t, sub)
	gittest.Git(t, sub, os.Getenv("HOME"), "init", "-q")
	gittest.Git(t, sub, os.Getenv("HOME"), "commit", "-q", "--allow-empty", "-m", "x")
	p.GitH("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", "./sub")
	p.GitH("commit", "-qm", "sub")
	p.Sync()
	h, _ := p.Observe()
	if _, missing, err := carry.Submodules(t.Context(), p.Peer, *h); err != nil || len(missing) > 0 {
		t.Fatal(err, missing)
	}
	if o := only(p, true); o.Holds() {
		t.Errorf("unchanged: %+v", o)
	}
	gittest.Git(t, filepath.Join(p.Guest, "sub"), p.Server.Home, "commit", "-q", "--allow-empty", "-m", "y")
	o := only(p, true)
	if !slices.Contains(o.Inside, onlyinvm.Inside{Path: "sub", Kind: "submodule", Commits: 1}) {
		t.Errorf("with a new commit: %+v", o)
	}
}

// A guest that answers endlessly or not at all costs a bounded time, and its clone does not count
// as empty.
func TestOnlyOfAHostileGuest(t *testing.T) {
	for what, script := range map[string]string{
		"floods":  `case "$*" in *status*) while :; do printf '?? %01000d\0' 1; done ;; *for-each-ref*refname\)) while :; do echo "1111111111111111111111111111111111111111 refs/x/y"; done ;; *) exec /usr/bin/git "$@" ;; esac`,
		"hangs":   `case "$*" in *status*) exec sleep 1000 ;; *) exec /usr/bin/git "$@" ;; esac`,
		"numbers": `case "$*" in *rev-list*) echo 99999999999999999999999 ;; *status*) printf 'M\0?? \033[31m\0' ;; *) exec /usr/bin/git "$@" ;; esac`,
	} {
		p := clonetest.New(t)
		p.CommitH("a", "x")
		p.Sync()
		h, g := p.Observe()
		p.Server.Path = filepath.Join(p.Server.Home, "evil")
		gittest.WriteFile(t, filepath.Join(p.Server.Path, "git"), "#!/bin/sh\n"+script+"\n")
		if err := os.Chmod(filepath.Join(p.Server.Path, "git"), 0o755); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		began := time.Now()
		answers, why := p.Peer.Conn.Probe(ctx, onlyinvm.Probes(p.Guest))
		cancel()
		o, err := onlyinvm.Find(t.Context(), *h, true, *g, nil, answers, why)
		if err != nil || !o.Holds() || time.Since(began) > 20*time.Second {
			t.Errorf("%s: %v %+v after %v", what, err, o, time.Since(began))
		}
		if text := strings.Join(o.Lines(), "\n"); len(text) > 10_000 || strings.Contains(text, "\x1b") {
			t.Errorf("%s: %d bytes: %.300q", what, len(text), text)
		}
	}
	// A missing answer does not count as an empty clone either.
	if o, err := onlyinvm.Find(t.Context(), compare.Host{}, false, compare.Guest{State: compare.Clone, Heads: map[string]string{}}, nil, nil, guest.ErrLost); err != nil || len(o.Incomplete) != 4 {
		t.Errorf("%v %+v", err, o)
	}
}
