package gitsync_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"aivm.dev/aivm/gitsync"
	"aivm.dev/aivm/gitsync/clonetest"
	"aivm.dev/aivm/gitsync/compare"
	"aivm.dev/aivm/gitsync/gittest"
	"aivm.dev/aivm/gitsync/hostgit"
	"aivm.dev/aivm/gitsync/pull"
	"aivm.dev/aivm/gitsync/transfer"
)

// refsOf returns all refs of the host except those of the guest's clone.
func refsOf(p *clonetest.Pair) string {
	var out []string
	for _, l := range strings.Split(p.GitH("for-each-ref", "--format=%(refname) %(objectname)"), "\n") {
		if !strings.HasPrefix(l, "refs/remotes/aivm-") {
			out = append(out, l)
		}
	}
	return strings.Join(out, "\n")
}

func leftovers(p *clonetest.Pair) []string {
	l := gittest.Glob(p.T.(*testing.T), filepath.Join(p.Host, ".git/objects/tmp_*"))
	return append(l, gittest.Glob(p.T.(*testing.T), filepath.Join(p.Host, ".git/objects/pack/tmp_*"))...)
}

// TestCutAnywhere cuts the connection of a push and a fetch at random points. Both repositories
// must stay valid, no ref may be partly updated, and the next run must finish.
func TestCutAnywhere(t *testing.T) {
	p := clonetest.New(t)
	p.CommitH("a.txt", "one\n")
	p.Sync()
	rng := rand.New(rand.NewPCG(1, 2))
	random := func(n int) string {
		var b strings.Builder
		for b.Len() < n {
			fmt.Fprintf(&b, "%x\n", rng.Uint64())
		}
		return b.String()
	}
	before := p.Server.Passed.Load()
	p.CommitH("probe", random(50_000))
	p.Sync()
	sessionBytes := p.Server.Passed.Load() - before
	done := 0
	for i := range 20 {
		h := p.CommitH(fmt.Sprintf("h%d", i), random(20_000))
		p.GitG("checkout", "-q", "-B", "agent")
		g := p.CommitG(fmt.Sprintf("g%d", i), random(20_000))
		p.GitG("checkout", "-q", "main")
		heads := refsOf(p)
		p.Server.CutAfter.Store(1 + rng.Int64N(sessionBytes))
		_, err := func() (_, err error) {
			defer func() {
				if r := recover(); r != nil {
					err = fmt.Errorf("%v", r)
				}
			}()
			return cutSync(p)
		}()
		if err == nil {
			done++
		}
		p.Server.CutAfter.Store(0)
		_ = p.Peer.Conn.Close()
		// What was still running at the cut must end without help.
		waitIdle(t, p.Guest)
		p.Fsck()
		gittest.Equal(t, "the host's refs", refsOf(p), heads)
		for _, ref := range []string{"main", "agent"} {
			if at, err := gittest.Try(p.Host, os.Getenv("HOME"), "rev-parse", "-q", "--verify", "refs/remotes/aivm-vm/"+ref); err == nil {
				p.GitH("rev-list", "--objects", "--quiet", strings.TrimSpace(at))
			}
		}
		p.Connect()
		if pr := p.Sync(); pr != nil {
			t.Fatalf("cut %d: the rerun: %v", i, pr)
		}
		gittest.Equal(t, "the guest's branch", p.GitG("rev-parse", "main"), h)
		gittest.Equal(t, "the guest's files", p.GitG("status", "--porcelain"), "")
		gittest.Equal(t, "what was fetched", p.GitH("rev-parse", "aivm-vm/agent"), g)
		if l := leftovers(p); len(l) > 0 {
			t.Errorf("temporary files remain: %v", l)
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	t.Logf("%d of 20 finished before the cut", done)
	if done > 15 {
		t.Error("most cuts came too late to test anything")
	}
}

// cutSync does what TrySync does, but every step may fail.
func cutSync(p *clonetest.Pair) (problem, err error) {
	r, err := hostgit.Find(p.Host)
	if err != nil {
		return nil, err
	}
	h, err := compare.Observe(context.Background(), r, p.Remote.Name)
	if err != nil {
		return nil, err
	}
	g := compare.Guest{State: compare.Clone, Head: "main", Marked: "main", Heads: map[string]string{}, Tags: map[string]string{}}
	for _, l := range strings.Split(p.GitG("for-each-ref", "--format=%(objectname) %(refname:short)", "refs/heads"), "\n") {
		oid, name, _ := strings.Cut(l, " ")
		g.Heads[name] = oid
	}
	if _, _, err := transfer.Fetch(context.Background(), p.Peer, &h, g); err != nil {
		return nil, err
	}
	_, problem, err = gitsync.PushBranch(context.Background(), p.Peer, &h, &g)
	return problem, err
}

// waitIdle waits until no process has dir in its command line.
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
	t.Fatal("a process is still running in the guest")
}

// fetchAs fetches with a guest whose git is the given shell script.
func fetchAs(p *clonetest.Pair, script string, lim transfer.Limits) error {
	p.T.Helper()
	dir := p.T.(*testing.T).TempDir()
	gittest.WriteFile(p.T, filepath.Join(dir, "git"), "#!/bin/sh\n"+script)
	if err := os.Chmod(filepath.Join(dir, "git"), 0o755); err != nil {
		p.T.Fatal(err)
	}
	p.Server.Path = dir
	defer func() { p.Server.Path = "" }()
	h, _ := observeHost(p)
	g := compare.Guest{State: compare.Clone, Heads: map[string]string{"main": h.Head, "evil": strings.Repeat("1", 40)}, Tags: map[string]string{}}
	q := p.Peer
	q.Limits = lim
	began := time.Now()
	_, _, err := transfer.Fetch(context.Background(), q, &h, g)
	if d := time.Since(began); d > 20*time.Second {
		p.T.Errorf("it took %s", d)
	}
	return err
}

func observeHost(p *clonetest.Pair) (compare.Host, error) {
	r, err := hostgit.Find(p.Host)
	if err != nil {
		p.T.Fatal(err)
	}
	h, err := compare.Observe(context.Background(), r, "aivm-vm")
	if err != nil {
		p.T.Fatal(err)
	}
	return h, err
}

// TestHostileGuest uses a guest whose git lies, floods and stalls. Nothing on the host may change,
// and each attempt must end.
func TestHostileGuest(t *testing.T) {
	p := clonetest.New(t)
	p.CommitH("a.txt", "one\n")
	p.Sync()
	marker := filepath.Join(t.TempDir(), "ran")
	heads := p.GitH("for-each-ref")
	config := gittest.ReadFile(t, filepath.Join(p.Host, ".git/config"))
	const evil = "1111111111111111111111111111111111111111"
	adv := func(first string) string {
		l := first + "\\000side-band-64k ofs-delta thin-pack multi_ack\\n"
		n := len(first) + 1 + len("side-band-64k ofs-delta thin-pack multi_ack") + 1 + 4
		return fmt.Sprintf("printf '%04x%s0000'\n", n, l)
	}
	lies := adv(evil + " refs/heads/evil")
	for name, tc := range map[string]struct {
		script string
		lim    transfer.Limits
		want   string
	}{
		"rubbish":           {"printf 'hello\\n'", transfer.Limits{}, "fetching from VM"},
		"nothing":           {"exit 0", transfer.Limits{}, "fetching from VM"},
		"an endless banner": {strings.Replace(lies, "0000'", "'", 1) + "while :; do printf '003d2222222222222222222222222222222222222222 refs/heads/mmmm\\n'; done", transfer.Limits{Bytes: 1 << 20}, "more than 1 MB"},
		"silence":           {"sleep 60", transfer.Limits{Quiet: 300 * time.Millisecond}, "sent nothing for too long"},
		"a drip":            {"while :; do printf 0; sleep 0.05; done", transfer.Limits{Total: time.Second}, "took too long|fetching from VM"},
		"ref it lacks":      {adv("2222222222222222222222222222222222222222 refs/heads/other"), transfer.Limits{}, "changed during the fetch"},
		"no pack":           {lies + "cat >/dev/null & printf '0008NAK\\n'; exit 0", transfer.Limits{}, "nothing was fetched"},
		"a pack of rubbish": {lies + "printf '0008NAK\\n'; printf '000a\\001PACKx'; printf '0000'", transfer.Limits{}, "invalid objects"},
		"endless progress":  {lies + "printf '0008NAK\\n'; while :; do printf '0009\\002abcd'; done", transfer.Limits{Bytes: 1 << 20}, "more than 1 MB"},
		"control bytes":     {lies + "printf '0008NAK\\n'; printf '0015\\003\\033]0;x\\007\\033[2Jdead'", transfer.Limits{}, "nothing was fetched"},
	} {
		t.Run(name, func(t *testing.T) {
			p.T = t
			err := fetchAs(p, tc.script, tc.lim)
			ok := false
			for _, w := range strings.Split(tc.want, "|") {
				ok = ok || err != nil && strings.Contains(err.Error(), w)
			}
			if !ok {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			gittest.Equal(t, "refs", p.GitH("for-each-ref"), heads)
			if l := leftovers(p); len(l) > 0 {
				t.Errorf("temporary files remain: %v", l)
			}
		})
		p.T = t
	}

	t.Run("misleading refs to real objects", func(t *testing.T) {
		p.T = t
		// Refs to things that are not commits, and a branch named HEAD.
		c := p.GitG("commit-tree", "-m", "x", p.GitG("rev-parse", "HEAD^{tree}"))
		p.GitG("branch", "fine", c)
		blob := p.GitG("hash-object", "-w", "a.txt")
		gittest.WriteFile(t, filepath.Join(p.Guest, ".git/refs/heads/blob"), blob+"\n")
		gittest.WriteFile(t, filepath.Join(p.Guest, ".git/refs/heads/HEAD"), c+"\n")
		p.Sync()
		if got := p.GitH("for-each-ref", "--format=%(refname)", "refs/remotes/aivm-vm"); got != "refs/remotes/aivm-vm/fine\nrefs/remotes/aivm-vm/main" {
			t.Errorf("tracked: %s", got)
		}
		if err := os.Remove(filepath.Join(p.Guest, ".git/refs/heads/blob")); err != nil {
			t.Fatal(err)
		}
	})

	t.Run("names that are unsafe", func(t *testing.T) {
		p.T = t
		// A tree with an entry .git: index-pack --strict refuses it.
		line := "100644 blob " + p.GitG("hash-object", "-w", "a.txt") + "\tconfig\n"
		sub := p.FeedG(line, "mktree")
		top := p.FeedG("040000 tree "+sub+"\t.git\n", "mktree")
		bad := p.GitG("commit-tree", "-m", "evil", top)
		p.GitG("branch", "dotgit", bad)
		_, err := p.TrySync()
		if err == nil || !strings.Contains(err.Error(), "invalid objects") {
			t.Errorf("a tree with .git in it: %v", err)
		}
		if _, err := gittest.Try(p.Host, os.Getenv("HOME"), "rev-parse", "-q", "--verify", "refs/remotes/aivm-vm/dotgit"); err == nil {
			t.Error("the branch was fetched")
		}
		if _, err := gittest.Try(p.Host, os.Getenv("HOME"), "cat-file", "-e", bad); err == nil {
			t.Error("its objects were added to the repository")
		}
		p.GitG("branch", "-D", "dotgit")
	})

	t.Run("hooks and settings of either side", func(t *testing.T) {
		p.T = t
		for _, h := range []string{"pre-push", "post-merge", "reference-transaction", "update", "post-index-change"} {
			f := filepath.Join(p.Host, ".git/hooks", h)
			gittest.WriteFile(t, f, "#!/bin/sh\ntouch "+marker+"\n")
			if err := os.Chmod(f, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		for _, kv := range [][2]string{{"core.fsmonitor", "touch " + marker}, {"core.sshCommand", "touch " + marker}, {"uploadpack.packObjectsHook", "touch " + marker + "; false"}, {"diff.external", "touch " + marker}, {"core.pager", "touch " + marker}} {
			p.GitH("config", kv[0], kv[1])
		}
		t.Setenv("GIT_DIR", "/nowhere")
		t.Setenv("GIT_EXTERNAL_DIFF", "touch "+marker)
		p.CommitG("fromguest", "x")
		if pr := p.Sync(); pr != nil {
			t.Fatal(pr)
		}
		h, _ := p.Observe()
		if err := pull.FastForward(context.Background(), h, nil); err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		if err := gitsync.Show(context.Background(), *h, &out, "diff", "--no-ext-diff", "HEAD~1", "HEAD", "--"); err != nil || !strings.Contains(out.String(), "fromguest") {
			t.Errorf("%v %q", err, out.String())
		}
		if _, err := os.Stat(marker); err == nil {
			t.Error("a program configured in the repository ran")
		}
		for _, k := range []string{"core.fsmonitor", "core.sshCommand", "uploadpack.packObjectsHook", "diff.external", "core.pager"} {
			p.GitH("config", "--unset", k)
		}
	})

	t.Run("a decompression bomb", func(t *testing.T) {
		p.T = t
		// 24 MB of zeros are 24 KB in transfer, and git expands them in memory at once. A git process
		// with too little memory for that must fail and leave no files.
		gittest.WriteFile(t, filepath.Join(p.Guest, "zeros"), strings.Repeat("\x00", 24<<20))
		p.GitG("add", "-A")
		p.GitG("commit", "-q", "-m", "bomb")
		_, g := p.Observe()
		h, _ := observeHost(p)
		q := p.Peer
		q.Limits = transfer.Limits{Memory: 24 << 20}
		if _, _, err := transfer.Fetch(context.Background(), q, &h, *g); err == nil {
			t.Error("it was fetched with 24 MB of memory")
		}
		if l := leftovers(p); len(l) > 0 {
			t.Errorf("temporary files remain: %v", l)
		}
		// 64 MB are above core.bigFileThreshold, so git streams them with little memory.
		gittest.WriteFile(t, filepath.Join(p.Guest, "zeros"), strings.Repeat("\x00", 64<<20))
		p.GitG("add", "-A")
		p.GitG("commit", "-q", "--amend", "-m", "bomb")
		_, g = p.Observe()
		q.Limits = transfer.Limits{Memory: 40 << 20}
		if _, _, err := transfer.Fetch(context.Background(), q, &h, *g); err != nil {
			t.Errorf("a big file: %v", err)
		}
		cs, err := pull.Changes(context.Background(), h, h.Head, h.Tracked["main"])
		if err != nil {
			t.Fatal(err)
		}
		if n, err := pull.Size(context.Background(), h, cs); err != nil || n != 64<<20 {
			t.Errorf("its size: %d %v", n, err)
		}
	})
	p.T = t
	gittest.Equal(t, "the configuration", gittest.ReadFile(t, filepath.Join(p.Host, ".git/config")), config)
	if out, err := gittest.Try(p.Host, os.Getenv("HOME"), "fsck", "--full", "--strict"); err != nil {
		t.Errorf("%v %s", err, out)
	}
}

// A branch that clashes with a tracked ref (file against directory) is reported, and the tracked
// ref is kept.
func TestRefsThatClash(t *testing.T) {
	p := clonetest.New(t)
	p.CommitH("a", "a")
	p.Sync()
	p.GitG("branch", "x")
	p.Sync()
	p.GitG("branch", "-D", "x")
	p.GitG("branch", "x/y")
	p.Sync()
	if !strings.Contains(strings.Join(p.Notes, "\n"), "branch x/y of the VM was not fetched") {
		t.Errorf("notes %q", p.Notes)
	}
	p.GitH("rev-parse", "aivm-vm/x")
	p.CommitH("b", "b")
	if pr := p.Sync(); pr != nil {
		t.Fatal(pr)
	}
}

// A branch the guest rewrote is fetched, and its old commit stays in the reflog.
func TestRewrittenBranch(t *testing.T) {
	p := clonetest.New(t)
	p.CommitH("a", "a")
	p.Sync()
	old := p.CommitG("b", "b")
	p.Sync()
	p.GitG("commit", "-q", "--amend", "-m", "other")
	p.Sync()
	gittest.Equal(t, "tracked", p.GitH("rev-parse", "aivm-vm/main"), p.GitG("rev-parse", "main"))
	gittest.Equal(t, "the reflog", p.GitH("rev-parse", "aivm-vm/main@{1}"), old)
}
