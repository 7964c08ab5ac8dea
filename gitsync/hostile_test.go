package gitsync

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// refsOf are all refs of the host but those of the guest's clone.
func (p *pair) refsOf() string {
	var out []string
	for _, l := range strings.Split(p.gitH("for-each-ref", "--format=%(refname) %(objectname)"), "\n") {
		if !strings.HasPrefix(l, "refs/remotes/aivm-") {
			out = append(out, l)
		}
	}
	return strings.Join(out, "\n")
}

func (p *pair) leftovers() []string {
	l := glob(p.t.(*testing.T), filepath.Join(p.host, ".git/objects/tmp_*"))
	return append(l, glob(p.t.(*testing.T), filepath.Join(p.host, ".git/objects/pack/tmp_*"))...)
}

// TestCutAnywhere cuts the line of a push and a fetch at random points: both
// sides stay whole, no ref is half-way, and the next run finishes.
func TestCutAnywhere(t *testing.T) {
	p := newPair(t)
	p.commitH("a.txt", "one\n")
	p.sync()
	rng := rand.New(rand.NewPCG(1, 2))
	random := func(n int) string {
		var b strings.Builder
		for b.Len() < n {
			fmt.Fprintf(&b, "%x\n", rng.Uint64())
		}
		return b.String()
	}
	before := p.s.passed.Load()
	p.commitH("probe", random(50_000))
	p.sync()
	whole := p.s.passed.Load() - before
	done := 0
	for i := range 20 {
		h := p.commitH(fmt.Sprintf("h%d", i), random(20_000))
		p.gitG("checkout", "-q", "-B", "agent")
		g := p.commitG(fmt.Sprintf("g%d", i), random(20_000))
		p.gitG("checkout", "-q", "main")
		heads := p.refsOf()
		p.s.left.Store(1 + rng.Int64N(whole))
		_, err := func() (_, err error) {
			defer func() {
				if r := recover(); r != nil {
					err = fmt.Errorf("%v", r)
				}
			}()
			return p.cutSync()
		}()
		if err == nil {
			done++
		}
		p.s.left.Store(0)
		_ = p.peer.Conn.Close()
		// What the cut left running ends by itself.
		waitIdle(t, p.guest)
		p.fsck()
		equal(t, "the host's refs", p.refsOf(), heads)
		for _, ref := range []string{"main", "agent"} {
			if at, err := tryGit(p.host, os.Getenv("HOME"), "rev-parse", "-q", "--verify", "refs/remotes/aivm-vm/"+ref); err == nil {
				p.gitH("rev-list", "--objects", "--quiet", strings.TrimSpace(at))
			}
		}
		p.connect()
		if pr := p.sync(); pr != nil {
			t.Fatalf("cut %d: the rerun: %v", i, pr)
		}
		equal(t, "the guest's branch", p.gitG("rev-parse", "main"), h)
		equal(t, "the guest's files", p.gitG("status", "--porcelain"), "")
		equal(t, "what was fetched", p.gitH("rev-parse", "aivm-vm/agent"), g)
		if l := p.leftovers(); len(l) > 0 {
			t.Errorf("left: %v", l)
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	t.Logf("%d of 20 came through before the cut", done)
	if done > 15 {
		t.Error("the cuts came too late to mean anything")
	}
}

// cutSync is trySync where every step may fail.
func (p *pair) cutSync() (problem, err error) {
	r, err := Find(p.host)
	if err != nil {
		return nil, err
	}
	h, err := Observe(context.Background(), r, p.remote.Name)
	if err != nil {
		return nil, err
	}
	g := Guest{State: Clone, Head: "main", Marked: "main", Heads: map[string]string{}, Tags: map[string]string{}}
	for _, l := range strings.Split(p.gitG("for-each-ref", "--format=%(objectname) %(refname:short)", "refs/heads"), "\n") {
		oid, name, _ := strings.Cut(l, " ")
		g.Heads[name] = oid
	}
	if _, _, err := Fetch(context.Background(), p.peer, &h, g); err != nil {
		return nil, err
	}
	_, problem, err = PushBranch(context.Background(), p.peer, &h, &g)
	return problem, err
}

// waitIdle waits until no process works in dir.
func waitIdle(t *testing.T, dir string) {
	t.Helper()
	for range 200 {
		busy := false
		ps, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, f := range ps {
			b, _ := os.ReadFile(f)
			busy = busy || strings.Contains(string(b), dir)
		}
		if !busy {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatal("something still works in the guest")
}

// fetchAs fetches with a guest whose git is the given shell script.
func (p *pair) fetchAs(script string, lim Limits) error {
	p.t.Helper()
	dir := p.t.(*testing.T).TempDir()
	writeFile(p.t, filepath.Join(dir, "git"), "#!/bin/sh\n"+script)
	if err := os.Chmod(filepath.Join(dir, "git"), 0o755); err != nil {
		p.t.Fatal(err)
	}
	p.s.path = dir
	defer func() { p.s.path = "" }()
	h, _ := p.observeHost()
	g := Guest{State: Clone, Heads: map[string]string{"main": h.Head, "evil": strings.Repeat("1", 40)}, Tags: map[string]string{}}
	q := p.peer
	q.Limits = lim
	began := time.Now()
	_, _, err := Fetch(context.Background(), q, &h, g)
	if d := time.Since(began); d > 20*time.Second {
		p.t.Errorf("it took %s", d)
	}
	return err
}

func (p *pair) observeHost() (Host, error) {
	r, err := Find(p.host)
	if err != nil {
		p.t.Fatal(err)
	}
	h, err := Observe(context.Background(), r, "aivm-vm")
	if err != nil {
		p.t.Fatal(err)
	}
	return h, err
}

// TestHostileGuest has a guest whose git lies, floods and stalls. Nothing of
// the host changes, and each try ends.
func TestHostileGuest(t *testing.T) {
	p := newPair(t)
	p.commitH("a.txt", "one\n")
	p.sync()
	marker := filepath.Join(t.TempDir(), "ran")
	heads := p.gitH("for-each-ref")
	config := readFile(t, filepath.Join(p.host, ".git/config"))
	const evil = "1111111111111111111111111111111111111111"
	adv := func(first string) string {
		l := first + "\\000side-band-64k ofs-delta thin-pack multi_ack\\n"
		n := len(first) + 1 + len("side-band-64k ofs-delta thin-pack multi_ack") + 1 + 4
		return fmt.Sprintf("printf '%04x%s0000'\n", n, l)
	}
	lies := adv(evil + " refs/heads/evil")
	for name, tc := range map[string]struct {
		script string
		lim    Limits
		want   string
	}{
		"rubbish":           {"printf 'hello\\n'", Limits{}, "fetching from VM"},
		"nothing":           {"exit 0", Limits{}, "fetching from VM"},
		"an endless banner": {strings.Replace(lies, "0000'", "'", 1) + "while :; do printf '003d2222222222222222222222222222222222222222 refs/heads/mmmm\\n'; done", Limits{Bytes: 1 << 20}, "more than 1 MB"},
		"silence":           {"sleep 60", Limits{Quiet: 300 * time.Millisecond}, "silent for too long"},
		"a drip":            {"while :; do printf 0; sleep 0.05; done", Limits{Total: time.Second}, "took too long|fetching from VM"},
		"ref it lacks":      {adv("2222222222222222222222222222222222222222 refs/heads/other"), Limits{}, "changed while it was fetched"},
		"no pack":           {lies + "cat >/dev/null & printf '0008NAK\\n'; exit 0", Limits{}, "nothing was taken over"},
		"a pack of rubbish": {lies + "printf '0008NAK\\n'; printf '000a\\001PACKx'; printf '0000'", Limits{}, "not sound"},
		"endless progress":  {lies + "printf '0008NAK\\n'; while :; do printf '0009\\002abcd'; done", Limits{Bytes: 1 << 20}, "more than 1 MB"},
		"control bytes":     {lies + "printf '0008NAK\\n'; printf '0015\\003\\033]0;x\\007\\033[2Jdead'", Limits{}, "nothing was taken over"},
	} {
		t.Run(name, func(t *testing.T) {
			p.t = t
			err := p.fetchAs(tc.script, tc.lim)
			ok := false
			for _, w := range strings.Split(tc.want, "|") {
				ok = ok || err != nil && strings.Contains(err.Error(), w)
			}
			if !ok {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			equal(t, "refs", p.gitH("for-each-ref"), heads)
			if l := p.leftovers(); len(l) > 0 {
				t.Errorf("left: %v", l)
			}
		})
		p.t = t
	}

	t.Run("real objects that lie", func(t *testing.T) {
		p.t = t
		// A commit whose tree is missing, and refs to things that are no commits.
		c := p.gitG("commit-tree", "-m", "x", p.gitG("rev-parse", "HEAD^{tree}"))
		p.gitG("branch", "fine", c)
		blob := p.gitG("hash-object", "-w", "a.txt")
		writeFile(t, filepath.Join(p.guest, ".git/refs/heads/blob"), blob+"\n")
		writeFile(t, filepath.Join(p.guest, ".git/refs/heads/HEAD"), c+"\n")
		p.sync()
		if got := p.gitH("for-each-ref", "--format=%(refname)", "refs/remotes/aivm-vm"); got != "refs/remotes/aivm-vm/fine\nrefs/remotes/aivm-vm/main" {
			t.Errorf("tracked: %s", got)
		}
		if err := os.Remove(filepath.Join(p.guest, ".git/refs/heads/blob")); err != nil {
			t.Fatal(err)
		}
	})

	t.Run("names that are unsafe", func(t *testing.T) {
		p.t = t
		// A tree with an entry .git: index-pack --strict refuses it.
		line := "100644 blob " + p.gitG("hash-object", "-w", "a.txt") + "\tconfig\n"
		sub := p.feedG(line, "mktree")
		top := p.feedG("040000 tree "+sub+"\t.git\n", "mktree")
		bad := p.gitG("commit-tree", "-m", "evil", top)
		p.gitG("branch", "dotgit", bad)
		_, err := p.trySync()
		if err == nil || !strings.Contains(err.Error(), "not sound") {
			t.Errorf("a tree with .git in it: %v", err)
		}
		if _, err := tryGit(p.host, os.Getenv("HOME"), "rev-parse", "-q", "--verify", "refs/remotes/aivm-vm/dotgit"); err == nil {
			t.Error("it was taken over")
		}
		if _, err := tryGit(p.host, os.Getenv("HOME"), "cat-file", "-e", bad); err == nil {
			t.Error("its objects were")
		}
		p.gitG("branch", "-D", "dotgit")
	})

	t.Run("hooks and settings of either side", func(t *testing.T) {
		p.t = t
		for _, h := range []string{"pre-push", "post-merge", "reference-transaction", "update", "post-index-change"} {
			f := filepath.Join(p.host, ".git/hooks", h)
			writeFile(t, f, "#!/bin/sh\ntouch "+marker+"\n")
			if err := os.Chmod(f, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		for _, kv := range [][2]string{{"core.fsmonitor", "touch " + marker}, {"core.sshCommand", "touch " + marker}, {"uploadpack.packObjectsHook", "touch " + marker + "; false"}, {"diff.external", "touch " + marker}, {"core.pager", "touch " + marker}} {
			p.gitH("config", kv[0], kv[1])
		}
		t.Setenv("GIT_DIR", "/nowhere")
		t.Setenv("GIT_EXTERNAL_DIFF", "touch "+marker)
		p.commitG("fromguest", "x")
		if pr := p.sync(); pr != nil {
			t.Fatal(pr)
		}
		h, _ := p.observe()
		if err := Pull(context.Background(), h, nil); err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		if err := Show(context.Background(), *h, &out, "diff", "--no-ext-diff", "HEAD~1", "HEAD", "--"); err != nil || !strings.Contains(out.String(), "fromguest") {
			t.Errorf("%v %q", err, out.String())
		}
		if _, err := os.Stat(marker); err == nil {
			t.Error("something of the repository's choosing ran")
		}
		for _, k := range []string{"core.fsmonitor", "core.sshCommand", "uploadpack.packObjectsHook", "diff.external", "core.pager"} {
			p.gitH("config", "--unset", k)
		}
	})

	t.Run("a bomb", func(t *testing.T) {
		p.t = t
		// 24 MB of zeros are 24 KB on the wire and have to be unfolded at once: a
		// git with too little memory for it is ended, and nothing is left.
		writeFile(t, filepath.Join(p.guest, "zeros"), strings.Repeat("\x00", 24<<20))
		p.gitG("add", "-A")
		p.gitG("commit", "-q", "-m", "bomb")
		_, g := p.observe()
		h, _ := p.observeHost()
		q := p.peer
		q.Limits = Limits{Memory: 24 << 20}
		if _, _, err := Fetch(context.Background(), q, &h, *g); err == nil {
			t.Error("it was taken over within 24 MB of memory")
		}
		if l := p.leftovers(); len(l) > 0 {
			t.Errorf("left: %v", l)
		}
		// 64 MB are more than is unfolded at once: they pass through little memory.
		writeFile(t, filepath.Join(p.guest, "zeros"), strings.Repeat("\x00", 64<<20))
		p.gitG("add", "-A")
		p.gitG("commit", "-q", "--amend", "-m", "bomb")
		_, g = p.observe()
		q.Limits = Limits{Memory: 40 << 20}
		if _, _, err := Fetch(context.Background(), q, &h, *g); err != nil {
			t.Errorf("a big file: %v", err)
		}
		cs, err := Changes(context.Background(), h, h.Head, h.Tracked["main"])
		if err != nil {
			t.Fatal(err)
		}
		if n, err := Size(context.Background(), h, cs); err != nil || n != 64<<20 {
			t.Errorf("its size: %d %v", n, err)
		}
	})
	p.t = t
	equal(t, "the configuration", readFile(t, filepath.Join(p.host, ".git/config")), config)
	if out, err := tryGit(p.host, os.Getenv("HOME"), "fsck", "--full", "--strict"); err != nil {
		t.Errorf("%v %s", err, out)
	}
}

// A ref that was tracked and is a directory now, or the other way, is said and
// kept.
func TestRefsThatClash(t *testing.T) {
	p := newPair(t)
	p.commitH("a", "a")
	p.sync()
	p.gitG("branch", "x")
	p.sync()
	p.gitG("branch", "-D", "x")
	p.gitG("branch", "x/y")
	p.sync()
	if !strings.Contains(strings.Join(p.notes, "\n"), "branch x/y of the VM is left out") {
		t.Errorf("said %q", p.notes)
	}
	p.gitH("rev-parse", "aivm-vm/x")
	p.commitH("b", "b")
	if pr := p.sync(); pr != nil {
		t.Fatal(pr)
	}
}

// What a guest rewrites is taken over, and what was seen before stays in the
// reflog.
func TestRewrittenBranch(t *testing.T) {
	p := newPair(t)
	p.commitH("a", "a")
	p.sync()
	old := p.commitG("b", "b")
	p.sync()
	p.gitG("commit", "-q", "--amend", "-m", "other")
	p.sync()
	equal(t, "tracked", p.gitH("rev-parse", "aivm-vm/main"), p.gitG("rev-parse", "main"))
	equal(t, "the reflog", p.gitH("rev-parse", "aivm-vm/main@{1}"), old)
}
