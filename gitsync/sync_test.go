package gitsync_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"aivm.dev/aivm/gitsync"
	"aivm.dev/aivm/gitsync/clonetest"
	"aivm.dev/aivm/gitsync/compare"
	"aivm.dev/aivm/gitsync/gittest"
	"aivm.dev/aivm/gitsync/hostgit"
)

// A git status that fails in the guest must not count as a clean work tree.
func TestGuestStatusFails(t *testing.T) {
	p := clonetest.New(t)
	p.CommitH("a", "x")
	p.Sync()
	gittest.WriteFile(t, filepath.Join(p.Guest, "b"), "x")
	if es, err := gitsync.GuestStatus(t.Context(), p.Peer); err != nil || len(es) != 1 {
		t.Errorf("%v %v", es, err)
	}
	gittest.WriteFile(t, filepath.Join(p.Guest, ".git/index"), "no index")
	if es, err := gitsync.GuestStatus(t.Context(), p.Peer); err == nil {
		t.Errorf("no error, but %v", es)
	}
}

func TestTwoWays(t *testing.T) {
	p := clonetest.New(t)
	first := p.CommitH("a.txt", "one\n")
	p.GitH("tag", "v1")
	p.GitH("tag", "-a", "-m", "x", "v1a")
	if pr := p.Sync(); pr != nil {
		t.Fatal(pr)
	}
	gittest.Equal(t, "the guest's branch", p.GitG("symbolic-ref", "HEAD"), "refs/heads/main")
	gittest.Equal(t, "the guest's commit", p.GitG("rev-parse", "HEAD"), first)
	gittest.Equal(t, "the guest's file", gittest.ReadFile(t, filepath.Join(p.Guest, "a.txt")), "one\n")
	gittest.Equal(t, "the guest's status", p.GitG("status", "--porcelain"), "")
	gittest.Equal(t, "tags", p.GitG("tag"), "v1\nv1a")
	gittest.Equal(t, "tracking", p.GitH("rev-parse", "refs/remotes/aivm-vm/main"), first)

	// The guest commits to main, and has a branch of its own.
	second := p.CommitG("b.txt", "two\n")
	p.GitG("branch", "agent/x")
	if pr := p.Sync(); pr != nil {
		t.Fatal(pr)
	}
	gittest.Equal(t, "tracking", p.GitH("rev-parse", "aivm-vm/main"), second)
	gittest.Equal(t, "tracking", p.GitH("rev-parse", "aivm-vm/agent/x"), second)
	gittest.Equal(t, "the host's branch stays", p.GitH("rev-parse", "main"), first)

	// The host merges the guest's commit and pushes back.
	p.GitH("merge", "-q", "--ff-only", "aivm-vm/main")
	third := p.CommitH("c.txt", "three\n")
	if pr := p.Sync(); pr != nil {
		t.Fatal(pr)
	}
	gittest.Equal(t, "the guest's commit", p.GitG("rev-parse", "HEAD"), third)
	gittest.Equal(t, "the guest's status", p.GitG("status", "--porcelain"), "")

	// Nothing to transfer: no git session is started.
	before := p.Server.Execs.Load()
	if pr := p.Sync(); pr != nil {
		t.Fatal(pr)
	}
	if n := p.Server.Execs.Load() - before; n != 1 {
		t.Errorf("%d commands with nothing to transfer, want only the probe", n)
	}
	p.Fsck()
	gittest.Equal(t, "temporary files in objects", strings.Join(gittest.Glob(t, filepath.Join(p.Host, ".git/objects/tmp_*")), " "), "")
}

func TestBranchSwitchStaysClean(t *testing.T) {
	p := clonetest.New(t)
	p.CommitH("a.txt", "one\n")
	p.Sync()
	p.GitH("switch", "-q", "-c", "feature/x")
	at := p.CommitH("a.txt", "two\n")
	if pr := p.Sync(); pr != nil {
		t.Fatal(pr)
	}
	gittest.Equal(t, "the guest's branch", p.GitG("symbolic-ref", "--short", "HEAD"), "feature/x")
	gittest.Equal(t, "the guest's commit", p.GitG("rev-parse", "HEAD"), at)
	gittest.Equal(t, "the guest's status", p.GitG("status", "--porcelain"), "")
	// With an uncommitted file in the guest the branch stays, and a note says so.
	gittest.WriteFile(t, filepath.Join(p.Guest, "a.txt"), "mine\n")
	p.GitH("switch", "-q", "main")
	p.CommitH("b.txt", "b\n")
	if pr := p.Sync(); pr != nil {
		t.Fatal(pr)
	}
	gittest.Equal(t, "the guest's branch", p.GitG("symbolic-ref", "--short", "HEAD"), "feature/x")
	gittest.Equal(t, "the guest's file", gittest.ReadFile(t, filepath.Join(p.Guest, "a.txt")), "mine\n")
	if l := p.Notes[len(p.Notes)-1]; !strings.Contains(l, "stays on branch feature/x") {
		t.Errorf("note %q", l)
	}
	// A branch the guest chose itself is not switched to the host's.
	p.GitG("checkout", "-q", "-f", "-b", "mine")
	p.CommitH("c.txt", "c\n")
	p.Sync()
	gittest.Equal(t, "the guest's branch", p.GitG("symbolic-ref", "--short", "HEAD"), "mine")
}

func TestRefusals(t *testing.T) {
	p := clonetest.New(t)
	p.CommitH("a.txt", "one\n")
	p.Sync()
	t.Run("dirty", func(t *testing.T) {
		gittest.WriteFile(t, filepath.Join(p.Guest, "a.txt"), "changed\n")
		p.CommitH("b.txt", "b\n")
		pr := p.Sync()
		if pr == nil || !strings.Contains(pr.Error(), "not clean: a.txt") || !strings.Contains(gittest.Hints(pr), "git stash") {
			t.Fatalf("%v\n%s", pr, gittest.Hints(pr))
		}
		gittest.Equal(t, "the guest's file", gittest.ReadFile(t, filepath.Join(p.Guest, "a.txt")), "changed\n")
		p.GitG("checkout", "-q", "a.txt")
		if pr := p.Sync(); pr != nil {
			t.Fatal(pr)
		}
	})
	t.Run("an untracked file in the way", func(t *testing.T) {
		gittest.WriteFile(t, filepath.Join(p.Guest, "new.txt"), "the guest's\n")
		p.CommitH("new.txt", "the host's\n")
		pr := p.Sync()
		if pr == nil || !strings.Contains(pr.Error(), "new.txt") {
			t.Fatalf("%v", pr)
		}
		gittest.Equal(t, "the guest's file", gittest.ReadFile(t, filepath.Join(p.Guest, "new.txt")), "the guest's\n")
		if err := os.Remove(filepath.Join(p.Guest, "new.txt")); err != nil {
			t.Fatal(err)
		}
		if pr := p.Sync(); pr != nil {
			t.Fatal(pr)
		}
	})
	t.Run("diverged", func(t *testing.T) {
		g := p.CommitG("g.txt", "g\n")
		p.CommitH("h.txt", "h\n")
		pr := p.Sync()
		if pr == nil || !strings.Contains(pr.Error(), "new commits: 1 on this machine, 1 in VM") || !strings.Contains(gittest.Hints(pr), "merge aivm-vm/main") {
			t.Fatalf("%v\n%s", pr, gittest.Hints(pr))
		}
		gittest.Equal(t, "the guest's branch", p.GitG("rev-parse", "main"), g)
		p.GitH("merge", "-q", "--no-edit", "aivm-vm/main")
		if pr := p.Sync(); pr != nil {
			t.Fatal(pr)
		}
		gittest.Equal(t, "joined", p.GitG("rev-parse", "main"), p.GitH("rev-parse", "main"))
	})
	t.Run("the guest is ahead", func(t *testing.T) {
		g := p.CommitG("g2.txt", "g\n")
		if pr := p.Sync(); pr != nil {
			t.Fatal(pr)
		}
		gittest.Equal(t, "the guest's branch", p.GitG("rev-parse", "main"), g)
		gittest.Equal(t, "fetched", p.GitH("rev-parse", "aivm-vm/main"), g)
	})
	p.Fsck()
}

func TestFindRefuses(t *testing.T) {
	p := clonetest.New(t)
	ctx := t.Context()
	obs := func() error {
		r, err := hostgit.Find(p.Host)
		if err != nil {
			return err
		}
		_, err = compare.Observe(ctx, r, "aivm-vm")
		return err
	}
	if err := obs(); err == nil || !strings.Contains(err.Error(), "has no commits yet") || !strings.Contains(gittest.Hints(err), "commit") {
		t.Errorf("no commit: %v", err)
	}
	p.CommitH("a", "a")
	p.GitH("checkout", "-q", "--detach")
	if err := obs(); err == nil || !strings.Contains(err.Error(), "detached HEAD") || !strings.Contains(gittest.Hints(err), "switch -c") {
		t.Errorf("detached: %v", err)
	}
	if _, err := hostgit.Find(t.TempDir()); err == nil || !strings.Contains(err.Error(), "requires a Git worktree") {
		t.Errorf("no repository: %v", err)
	}
	sub := filepath.Join(p.Host, "sub/dir")
	gittest.Mkdir(t, sub)
	if r, err := hostgit.Find(sub); err != nil || r.Top != p.Host {
		t.Errorf("a folder in it: %+v %v", r, err)
	}
	r, _ := hostgit.Find(p.Host)
	for _, w := range []string{p.Host, filepath.Dir(p.Host), filepath.Join(p.Host, "sub")} {
		if err := r.Guarded(map[string]string{w: "x"}); err == nil || !strings.Contains(gittest.Hints(err), "aivm detach") {
			t.Errorf("writable %s: %v", w, err)
		}
	}
	if err := r.Guarded(map[string]string{p.Host + "2": "x"}); err != nil {
		t.Error(err)
	}
}

func TestGuestPlaces(t *testing.T) {
	p := clonetest.New(t)
	p.CommitH("a", "a")
	gittest.Mkdir(t, p.Guest)
	if _, g := p.Observe(); g.State != compare.Absent {
		t.Errorf("an empty directory: %s", g.State)
	}
	gittest.WriteFile(t, filepath.Join(p.Guest, ".hidden"), "x")
	if _, g := p.Observe(); g.State != compare.Other || g.Usable("vm", p.Guest) == nil {
		t.Errorf("something else: %s", g.State)
	}
	if err := os.RemoveAll(p.Guest); err != nil {
		t.Fatal(err)
	}
	gittest.WriteFile(t, p.Guest, "x")
	if _, g := p.Observe(); g.State != compare.NoDir {
		t.Errorf("a file: %s", g.State)
	}
	if err := os.Remove(p.Guest); err != nil {
		t.Fatal(err)
	}
	gittest.Mkdir(t, filepath.Join(p.Guest, ".git"))
	if _, g := p.Observe(); g.State != compare.Broken || !strings.Contains(g.Why, "not a git repository") {
		t.Errorf("no repository: %s %q", g.State, g.Why)
	}
}

func TestBothEngines(t *testing.T) {
	many := func(p *clonetest.Pair) {
		var in strings.Builder
		for i := range 900 {
			n := strconv.Itoa(i)
			in.WriteString("commit refs/heads/main\nmark :" + strconv.Itoa(i+1) + "\ncommitter T <t@example.org> 1700000000 +0000\ndata " + strconv.Itoa(len(n)) + "\n" + n + "\nM 644 inline f" + n + "\ndata " + strconv.Itoa(len(n)) + "\n" + n + "\n\n")
		}
		f := filepath.Join(p.T.(*testing.T).TempDir(), "stream")
		gittest.WriteFile(p.T, f, in.String())
		p.GitH("-c", "core.x=y", "-c", "alias.x=!git fast-import --quiet <"+"'"+f+"'", "x")
		p.GitH("reset", "-q", "--hard", "main")
	}
	for _, tc := range []struct {
		name  string
		args  []string
		by    string
		setup func(*clonetest.Pair)
	}{
		{"small", nil, "go-git", func(p *clonetest.Pair) { p.CommitH("a", "a") }},
		{"many objects", nil, "more than 2000 objects", many},
		{"big", nil, "more than 16 MB", func(p *clonetest.Pair) { p.CommitH("big", strings.Repeat("0123456789abcdef\n", 1<<20+1)) }},
		{"sha256", []string{"--object-format=sha256"}, "sha256", func(p *clonetest.Pair) { p.CommitH("a", "a") }},
		{"linked work tree", nil, "linked work tree", func(p *clonetest.Pair) {
			p.CommitH("a", "a")
			top := p.Host
			p.GitH("worktree", "add", "-q", "-b", "side", top+"-side")
			p.Host = top + "-side"
		}},
		{"borrowed objects", nil, "borrows", func(p *clonetest.Pair) {
			p.CommitH("a", "a")
			top := p.Host
			gittest.Git(p.T, filepath.Dir(top), os.Getenv("HOME"), "clone", "-q", "--shared", top, top+"-b")
			p.Host = top + "-b"
		}},
		{"partial clone", nil, "partial clone", func(p *clonetest.Pair) {
			p.CommitH("a", "a")
			p.CommitH("a", "b")
			top := p.Host
			p.GitH("config", "uploadpack.allowFilter", "true")
			p.GitH("config", "uploadpack.allowAnySHA1InWant", "true")
			gittest.Git(p.T, filepath.Dir(top), os.Getenv("HOME"), "clone", "-q", "--filter=blob:none", "file://"+strings.ReplaceAll(top, " ", "%20"), top+"-p")
			p.Host = top + "-p"
		}},
		{"shallow clone", nil, "shallow clone", func(p *clonetest.Pair) {
			p.CommitH("a", "a")
			p.CommitH("a", "b")
			top := p.Host
			gittest.Git(p.T, filepath.Dir(top), os.Getenv("HOME"), "clone", "-q", "--depth=1", "file://"+top, top+"-s")
			p.Host = top + "-s"
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := clonetest.New(t, tc.args...)
			tc.setup(p)
			if pr := p.Sync(); pr != nil {
				t.Fatalf("%v %s", pr, gittest.Hints(pr))
			}
			if !strings.Contains(strings.Join(p.Notes, "\n"), tc.by) {
				t.Errorf("by %q, want %q", p.Notes, tc.by)
			}
			gittest.Equal(t, "the guest's commit", p.GitG("rev-parse", "HEAD"), p.GitH("rev-parse", "HEAD"))
			gittest.Equal(t, "the guest's status", p.GitG("status", "--porcelain"), "")
			c := p.CommitG("from-guest", "x\n")
			if pr := p.Sync(); pr != nil {
				t.Fatal(pr)
			}
			gittest.Equal(t, "fetched", p.GitH("rev-parse", "aivm-vm/"+p.GitH("symbolic-ref", "--short", "HEAD")), c)
			p.GitH("merge", "-q", "--ff-only", c)
			p.CommitH("again", "y\n")
			if pr := p.Sync(); pr != nil {
				t.Fatal(pr)
			}
			gittest.Equal(t, "the guest's commit", p.GitG("rev-parse", "HEAD"), p.GitH("rev-parse", "HEAD"))
			p.Fsck()
		})
	}
}
