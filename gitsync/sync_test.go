package gitsync

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"aivm.dev/aivm/internal/ui"
)

func equal(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func hints(err error) string {
	var e *ui.Error
	if errors.As(err, &e) {
		return strings.Join(e.Hints, "\n")
	}
	return ""
}

func TestTwoWays(t *testing.T) {
	p := newPair(t)
	first := p.commitH("a.txt", "one\n")
	p.gitH("tag", "v1")
	p.gitH("tag", "-a", "-m", "x", "v1a")
	if pr := p.sync(); pr != nil {
		t.Fatal(pr)
	}
	equal(t, "the guest's branch", p.gitG("symbolic-ref", "HEAD"), "refs/heads/main")
	equal(t, "the guest's commit", p.gitG("rev-parse", "HEAD"), first)
	equal(t, "the guest's file", readFile(t, filepath.Join(p.guest, "a.txt")), "one\n")
	equal(t, "the guest's status", p.gitG("status", "--porcelain"), "")
	equal(t, "tags", p.gitG("tag"), "v1\nv1a")
	equal(t, "tracking", p.gitH("rev-parse", "refs/remotes/aivm-vm/main"), first)

	// The guest commits, on a branch of its own too.
	second := p.commitG("b.txt", "two\n")
	p.gitG("branch", "agent/x")
	if pr := p.sync(); pr != nil {
		t.Fatal(pr)
	}
	equal(t, "tracking", p.gitH("rev-parse", "aivm-vm/main"), second)
	equal(t, "tracking", p.gitH("rev-parse", "aivm-vm/agent/x"), second)
	equal(t, "the host's branch stays", p.gitH("rev-parse", "main"), first)

	// Taken over and pushed back.
	p.gitH("merge", "-q", "--ff-only", "aivm-vm/main")
	third := p.commitH("c.txt", "three\n")
	if pr := p.sync(); pr != nil {
		t.Fatal(pr)
	}
	equal(t, "the guest's commit", p.gitG("rev-parse", "HEAD"), third)
	equal(t, "the guest's status", p.gitG("status", "--porcelain"), "")

	// Nothing moves: no session.
	before := p.s.execs.Load()
	if pr := p.sync(); pr != nil {
		t.Fatal(pr)
	}
	if n := p.s.execs.Load() - before; n != 1 {
		t.Errorf("%d execs with nothing to move, want the probe", n)
	}
	p.fsck()
	equal(t, "what is left in objects", strings.Join(glob(t, filepath.Join(p.host, ".git/objects/tmp_*")), " "), "")
}

func glob(t *testing.T, pat string) []string {
	t.Helper()
	l, err := filepath.Glob(strings.ReplaceAll(pat, "[", "?"))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestBranchSwitchStaysClean(t *testing.T) {
	p := newPair(t)
	p.commitH("a.txt", "one\n")
	p.sync()
	p.gitH("switch", "-q", "-c", "feature/x")
	at := p.commitH("a.txt", "two\n")
	if pr := p.sync(); pr != nil {
		t.Fatal(pr)
	}
	equal(t, "the guest's branch", p.gitG("symbolic-ref", "--short", "HEAD"), "feature/x")
	equal(t, "the guest's commit", p.gitG("rev-parse", "HEAD"), at)
	equal(t, "the guest's status", p.gitG("status", "--porcelain"), "")
	// Back, with something not committed there: it stays, and is said.
	writeFile(t, filepath.Join(p.guest, "a.txt"), "mine\n")
	p.gitH("switch", "-q", "main")
	p.commitH("b.txt", "b\n")
	if pr := p.sync(); pr != nil {
		t.Fatal(pr)
	}
	equal(t, "the guest's branch", p.gitG("symbolic-ref", "--short", "HEAD"), "feature/x")
	equal(t, "the guest's file", readFile(t, filepath.Join(p.guest, "a.txt")), "mine\n")
	if l := p.notes[len(p.notes)-1]; !strings.Contains(l, "stays on branch feature/x") {
		t.Errorf("said %q", l)
	}
	// A branch the guest chose itself is not left for the host's.
	p.gitG("checkout", "-q", "-f", "-b", "mine")
	p.commitH("c.txt", "c\n")
	p.sync()
	equal(t, "the guest's branch", p.gitG("symbolic-ref", "--short", "HEAD"), "mine")
}

func TestRefusals(t *testing.T) {
	p := newPair(t)
	p.commitH("a.txt", "one\n")
	p.sync()
	t.Run("dirty", func(t *testing.T) {
		writeFile(t, filepath.Join(p.guest, "a.txt"), "changed\n")
		p.commitH("b.txt", "b\n")
		pr := p.sync()
		if pr == nil || !strings.Contains(pr.Error(), "not clean: a.txt") || !strings.Contains(hints(pr), "git stash") {
			t.Fatalf("%v\n%s", pr, hints(pr))
		}
		equal(t, "the guest's file", readFile(t, filepath.Join(p.guest, "a.txt")), "changed\n")
		p.gitG("checkout", "-q", "a.txt")
		if pr := p.sync(); pr != nil {
			t.Fatal(pr)
		}
	})
	t.Run("an untracked file in the way", func(t *testing.T) {
		writeFile(t, filepath.Join(p.guest, "new.txt"), "the guest's\n")
		p.commitH("new.txt", "the host's\n")
		pr := p.sync()
		if pr == nil || !strings.Contains(pr.Error(), "new.txt") {
			t.Fatalf("%v", pr)
		}
		equal(t, "the guest's file", readFile(t, filepath.Join(p.guest, "new.txt")), "the guest's\n")
		if err := os.Remove(filepath.Join(p.guest, "new.txt")); err != nil {
			t.Fatal(err)
		}
		if pr := p.sync(); pr != nil {
			t.Fatal(pr)
		}
	})
	t.Run("diverged", func(t *testing.T) {
		g := p.commitG("g.txt", "g\n")
		p.commitH("h.txt", "h\n")
		pr := p.sync()
		if pr == nil || !strings.Contains(pr.Error(), "1 new here, 1 new in VM") || !strings.Contains(hints(pr), "merge aivm-vm/main") {
			t.Fatalf("%v\n%s", pr, hints(pr))
		}
		equal(t, "the guest's branch", p.gitG("rev-parse", "main"), g)
		p.gitH("merge", "-q", "--no-edit", "aivm-vm/main")
		if pr := p.sync(); pr != nil {
			t.Fatal(pr)
		}
		equal(t, "joined", p.gitG("rev-parse", "main"), p.gitH("rev-parse", "main"))
	})
	t.Run("the guest is ahead", func(t *testing.T) {
		g := p.commitG("g2.txt", "g\n")
		if pr := p.sync(); pr != nil {
			t.Fatal(pr)
		}
		equal(t, "the guest's branch", p.gitG("rev-parse", "main"), g)
		equal(t, "seen here", p.gitH("rev-parse", "aivm-vm/main"), g)
	})
	p.fsck()
}

func TestFindRefuses(t *testing.T) {
	p := newPair(t)
	ctx := t.Context()
	obs := func() error {
		r, err := Find(p.host)
		if err != nil {
			return err
		}
		_, err = Observe(ctx, r, "aivm-vm")
		return err
	}
	if err := obs(); err == nil || !strings.Contains(err.Error(), "has none yet") || !strings.Contains(hints(err), "commit") {
		t.Errorf("no commit: %v", err)
	}
	p.commitH("a", "a")
	p.gitH("checkout", "-q", "--detach")
	if err := obs(); err == nil || !strings.Contains(err.Error(), "detached HEAD") || !strings.Contains(hints(err), "switch -c") {
		t.Errorf("detached: %v", err)
	}
	if _, err := Find(t.TempDir()); err == nil || !strings.Contains(err.Error(), "requires a Git worktree") {
		t.Errorf("no repository: %v", err)
	}
	sub := filepath.Join(p.host, "sub/dir")
	mkdir(t, sub)
	if r, err := Find(sub); err != nil || r.Top != p.host {
		t.Errorf("a folder in it: %+v %v", r, err)
	}
	r, _ := Find(p.host)
	for _, w := range []string{p.host, filepath.Dir(p.host), filepath.Join(p.host, "sub")} {
		if err := r.Guarded(map[string]string{w: "x"}); err == nil || !strings.Contains(hints(err), "aivm detach") {
			t.Errorf("writable %s: %v", w, err)
		}
	}
	if err := r.Guarded(map[string]string{p.host + "2": "x"}); err != nil {
		t.Error(err)
	}
}

func TestGuestPlaces(t *testing.T) {
	p := newPair(t)
	p.commitH("a", "a")
	mkdir(t, p.guest)
	if _, g := p.observe(); g.State != Absent {
		t.Errorf("an empty directory: %s", g.State)
	}
	writeFile(t, filepath.Join(p.guest, ".hidden"), "x")
	if _, g := p.observe(); g.State != Other || g.Usable("vm", p.guest) == nil {
		t.Errorf("something else: %s", g.State)
	}
	if err := os.RemoveAll(p.guest); err != nil {
		t.Fatal(err)
	}
	writeFile(t, p.guest, "x")
	if _, g := p.observe(); g.State != NoDir {
		t.Errorf("a file: %s", g.State)
	}
	if err := os.Remove(p.guest); err != nil {
		t.Fatal(err)
	}
	mkdir(t, filepath.Join(p.guest, ".git"))
	if _, g := p.observe(); g.State != Broken || !strings.Contains(g.Why, "not a git repository") {
		t.Errorf("no repository: %s %q", g.State, g.Why)
	}
}

func TestBothEngines(t *testing.T) {
	many := func(p *pair) {
		var in strings.Builder
		for i := range 900 {
			n := strconv.Itoa(i)
			in.WriteString("commit refs/heads/main\nmark :" + strconv.Itoa(i+1) + "\ncommitter T <t@example.org> 1700000000 +0000\ndata " + strconv.Itoa(len(n)) + "\n" + n + "\nM 644 inline f" + n + "\ndata " + strconv.Itoa(len(n)) + "\n" + n + "\n\n")
		}
		f := filepath.Join(p.t.(*testing.T).TempDir(), "stream")
		writeFile(p.t, f, in.String())
		p.gitH("-c", "core.x=y", "-c", "alias.x=!git fast-import --quiet <"+"'"+f+"'", "x")
		p.gitH("reset", "-q", "--hard", "main")
	}
	for _, tc := range []struct {
		name  string
		args  []string
		by    string
		setup func(*pair)
	}{
		{"small", nil, "go-git", func(p *pair) { p.commitH("a", "a") }},
		{"many objects", nil, "more than 2000 objects", many},
		{"big", nil, "more than 16 MB", func(p *pair) { p.commitH("big", strings.Repeat("0123456789abcdef\n", 1<<20+1)) }},
		{"sha256", []string{"--object-format=sha256"}, "sha256", func(p *pair) { p.commitH("a", "a") }},
		{"linked work tree", nil, "linked work tree", func(p *pair) {
			p.commitH("a", "a")
			top := p.host
			p.gitH("worktree", "add", "-q", "-b", "side", top+"-side")
			p.host = top + "-side"
		}},
		{"borrowed objects", nil, "borrows", func(p *pair) {
			p.commitH("a", "a")
			top := p.host
			gitIn(p.t, filepath.Dir(top), os.Getenv("HOME"), "clone", "-q", "--shared", top, top+"-b")
			p.host = top + "-b"
		}},
		{"partial clone", nil, "partial clone", func(p *pair) {
			p.commitH("a", "a")
			p.commitH("a", "b")
			top := p.host
			p.gitH("config", "uploadpack.allowFilter", "true")
			p.gitH("config", "uploadpack.allowAnySHA1InWant", "true")
			gitIn(p.t, filepath.Dir(top), os.Getenv("HOME"), "clone", "-q", "--filter=blob:none", "file://"+strings.ReplaceAll(top, " ", "%20"), top+"-p")
			p.host = top + "-p"
		}},
		{"shallow clone", nil, "shallow clone", func(p *pair) {
			p.commitH("a", "a")
			p.commitH("a", "b")
			top := p.host
			gitIn(p.t, filepath.Dir(top), os.Getenv("HOME"), "clone", "-q", "--depth=1", "file://"+top, top+"-s")
			p.host = top + "-s"
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPair(t, tc.args...)
			tc.setup(p)
			if pr := p.sync(); pr != nil {
				t.Fatalf("%v %s", pr, hints(pr))
			}
			if !strings.Contains(strings.Join(p.notes, "\n"), tc.by) {
				t.Errorf("by %q, want %q", p.notes, tc.by)
			}
			equal(t, "the guest's commit", p.gitG("rev-parse", "HEAD"), p.gitH("rev-parse", "HEAD"))
			equal(t, "the guest's status", p.gitG("status", "--porcelain"), "")
			c := p.commitG("from-guest", "x\n")
			if pr := p.sync(); pr != nil {
				t.Fatal(pr)
			}
			equal(t, "fetched", p.gitH("rev-parse", "aivm-vm/"+p.gitH("symbolic-ref", "--short", "HEAD")), c)
			p.gitH("merge", "-q", "--ff-only", c)
			p.commitH("again", "y\n")
			if pr := p.sync(); pr != nil {
				t.Fatal(pr)
			}
			equal(t, "the guest's commit", p.gitG("rev-parse", "HEAD"), p.gitH("rev-parse", "HEAD"))
			p.fsck()
		})
	}
}
