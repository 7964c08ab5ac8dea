package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/crypto/ssh"

	"aivm.dev/aivm/gitsync"
	"aivm.dev/aivm/internal/guest"
)

const gitConfig = "[user]\n\tname = Host\n\temail = host@example.org\n[init]\n\tdefaultBranch = main\n"

// newGitWorld returns a gitWorld whose repository path has spaces and other characters that are
// special in a shell.
func newGitWorld(w *world, vm string) *gitWorld {
	return &gitWorld{world: w, vm: vm, repo: filepath.Join(w.home, "work", "my repo é & 'q'"), dst: "/home/agent/work/my repo é & 'q'"}
}

// all tests git mode with a repository and its clone in a VM: push, fetch and pull; cut connections;
// a guest whose git lies; detach.
func (g *gitWorld) all(t *testing.T) {
	g.host("init", "-q", g.repo)
	g.commit("a.txt", "one\n")
	g.git("tag", "-a", "-m", "first", "v1")
	g.config = readAll(t, filepath.Join(g.repo, ".git/config"))
	step := g.steps()
	step("attached", g.attached)
	step("code, and again with nothing to transfer", g.warm)
	step("push, fetch and pull", g.pushPull)
	step("filters and configuration of the guest", g.guestFilters)
	step("plain git", g.plainGit)
	step("refused", g.refused)
	step("uncommitted", g.uncommitted)
	step("connections cut at random", g.cutConnections)
	step("a guest whose git lies", g.lyingGuest)
	step("what only the VM has", g.onlyInVM)
	step("detached", g.detached)
}

type gitWorld struct {
	*world
	vm, repo, dst string
	config        string // .git/config of the repository before aivm changed it
}

func readAll(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// host runs git on the host, in the repository or, before it exists, in the home.
func (g *gitWorld) host(args ...string) string {
	g.t.Helper()
	dir := g.repo
	if _, err := os.Stat(dir); err != nil {
		dir = g.home
	}
	r := g.run(dir, nil, []string{"GIT_SSH_COMMAND=ssh -F '" + filepath.Join(g.home, ".ssh/config") + "'"}, append([]string{"git"}, args...)...)
	if r.code != 0 {
		g.t.Fatalf("git %v: %d\n%s%s", args, r.code, r.stdout, r.stderr)
	}
	return strings.TrimRight(r.stdout, "\n")
}

func (g *gitWorld) git(args ...string) string { g.t.Helper(); return g.host(args...) }

func (g *gitWorld) commit(name, text string) string {
	g.t.Helper()
	write(g.t, filepath.Join(g.repo, name), text, 0o644)
	g.git("add", "-A")
	g.git("commit", "-q", "-m", name)
	return g.git("rev-parse", "HEAD")
}

// inClone runs a shell command in the clone.
func (g *gitWorld) inClone(line string) string {
	g.t.Helper()
	return g.guest(g.vm, `cd "/home/agent/work/my repo é & 'q'" && `+line)
}

func (g *gitWorld) commitInClone(name, text string) string {
	g.t.Helper()
	return g.inClone("printf %s " + text + " >" + name + " && git add -A && git -c user.name=G -c user.email=g@example.org commit -q -m " + name + " && git rev-parse HEAD")
}

func (g *gitWorld) equal(what, got, want string) {
	g.t.Helper()
	if got != want {
		g.t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// attached attaches the repository and checks the clone. In `make test-long` attach is killed at
// every fault point first.
func (g *gitWorld) attached(t *testing.T) {
	attach := []string{"attach", ".", "--mode", "git", "--yes"}
	if longRun {
		points := strings.Join(walk(t, g.world, g.repo, nil, attach...), " ")
		for _, id := range []string{"git.remote", "git.init", "git.push", "store.attach"} {
			if !strings.Contains(points, id+":") {
				t.Errorf("not killed at %s: %s", id, points)
			}
		}
	}
	r := g.must(g.repo, attach...)
	g.equal("the clone's HEAD", g.inClone("git rev-parse HEAD"), g.git("rev-parse", "HEAD"))
	g.equal("the guest's tag", g.inClone("git tag"), "v1")
	g.equal("the guest's files", g.inClone("git status --porcelain && cat a.txt"), "one")
	g.equal("the remote", g.git("remote"), "aivm-"+g.vm)
	if !strings.Contains(r.stdout, "Guest clone ready at "+g.dst) {
		t.Errorf("%+v", r)
	}
	if n := strings.Count(readAll(t, filepath.Join(g.home, ".config/aivm/config.toml")), "mode = \"git\""); n != 1 {
		t.Errorf("%d records", n)
	}
}

func dryActions(t *testing.T, out string) []string {
	t.Helper()
	var d struct {
		Stages []struct {
			Actions []struct{ ID string }
		}
	}
	if err := json.Unmarshal([]byte(out), &d); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var ids []string
	for _, s := range d.Stages {
		for _, a := range s.Actions {
			ids = append(ids, a.ID)
		}
	}
	return ids
}

func (g *gitWorld) warm(t *testing.T) {
	r := g.run(g.repo, nil, []string{"FAKECODE_QUICK="}, filepath.Join(bin, "aivm"), "code", ".")
	rec := g.opened()
	if r.code != 0 || rec.Error != "" || rec.Path != g.dst {
		t.Errorf("%+v %+v", rec, r)
	}
	logins := func() string {
		return g.login(g.vm, `sudo -n journalctl -u ssh -o cat --no-pager | grep -c 'Accepted publickey'`)
	}
	before, files := logins(), snapshot(t, g.repo)
	g.run(g.repo, nil, []string{"FAKECODE_QUICK=1"}, filepath.Join(bin, "aivm"), "code", ".")
	var n, m int
	_, _ = fmt.Sscan(before, &n)
	if _, _ = fmt.Sscan(logins(), &m); m-n != 2 { // one login of the run, one of this count
		t.Errorf("%d logins", m-n-1)
	}
	if !sameMap(files, snapshot(t, g.repo)) {
		t.Error("a run with nothing to transfer wrote to the repository")
	}
	if ids := dryActions(t, g.must(g.repo, "code", ".", "--dry-run", "--json").stdout); len(ids) != 0 {
		t.Errorf("the dry run of a run with nothing to do plans %v", ids)
	}
}

func (g *gitWorld) pushPull(t *testing.T) {
	guestCommit := g.commitInClone("b.txt", "two")
	g.inClone("git branch agent/idea")
	at := g.commit("c.txt", "three\n")
	r := g.aivm(g.repo, "ssh", ".", "--", "git", "log", "--format=%s", "-1")
	if r.code != 0 || strings.TrimSpace(r.stdout) != "b.txt" || !strings.Contains(r.stderr, "has diverged (new commits: 1 on this machine, 1 in VM") {
		t.Errorf("diverged: %+v", r)
	}
	g.equal("fetched", g.git("rev-parse", "aivm-"+g.vm+"/main")+g.git("rev-parse", "aivm-"+g.vm+"/agent/idea"), guestCommit+guestCommit)
	g.equal("the host's branch", g.git("rev-parse", "main"), at)
	if r := g.aivm(g.repo, "git", "pull"); r.code != 2 || !strings.Contains(r.stderr, "only fast-forwards") {
		t.Errorf("pull of a diverged branch: %+v", r)
	}
	g.git("merge", "-q", "--no-edit", "aivm-"+g.vm+"/main")
	g.must(g.repo, "git", "push")
	g.equal("the guest's commit", g.inClone("git rev-parse HEAD && git status --porcelain"), g.git("rev-parse", "main"))

	g.inClone("printf '#!/bin/sh\\n' >run.sh && chmod +x run.sh")
	guestCommit = g.commitInClone("Makefile", "all:")
	g.must(g.repo, "git", "fetch") // on a busy host diff may not reach the VM in time and then shows what was fetched before
	if out := g.must(g.repo, "git", "diff", "--stat").stdout; !strings.Contains(out, "Makefile") {
		t.Errorf("diff: %s", out)
	}
	if out := g.must(g.repo, "git", "log").stdout; !strings.Contains(out, "G: Makefile") {
		t.Errorf("log: %s", out)
	}
	r = g.aivm(g.repo, "git", "pull")
	if r.code != 3 || !strings.Contains(r.stderr, "Makefile") || !strings.Contains(r.stderr, "run.sh (executable)") {
		t.Errorf("pull of host-executed files: %+v", r)
	}
	g.must(g.repo, "git", "pull", "--yes")
	g.equal("pulled", g.git("rev-parse", "main"), guestCommit)
	g.equal("the pulled file", readAll(t, filepath.Join(g.repo, "Makefile")), "all:")

	g.git("switch", "-q", "-c", "feature/x")
	at = g.commit("d.txt", "four\n")
	g.must(g.repo, "code", ".")
	g.equal("the clone after a branch switch on the host", g.inClone("git symbolic-ref --short HEAD && git rev-parse HEAD && git status --porcelain"), "feature/x\n"+at)
	g.git("switch", "-q", "main")
	g.must(g.repo, "git", "push")
}

func (g *gitWorld) plainGit(t *testing.T) {
	at := g.commit("e.txt", "five\n")
	g.git("push", "-q", "aivm-"+g.vm, "main")
	g.equal("pushed with git push", g.inClone("git rev-parse main && git status --porcelain"), at)
	guestCommit := g.commitInClone("f.txt", "six")
	g.git("fetch", "-q", "aivm-"+g.vm)
	g.equal("fetched with git fetch", g.git("rev-parse", "aivm-"+g.vm+"/main"), guestCommit)
	g.must(g.repo, "git", "pull")
	g.equal("pulled", g.git("rev-parse", "main"), guestCommit)
}

func (g *gitWorld) refused(t *testing.T) {
	g.inClone("echo mine >>a.txt")
	g.commit("g.txt", "seven\n")
	r := g.aivm(g.repo, "git", "push")
	if r.code != 2 || !strings.Contains(r.stderr, "not clean: a.txt") {
		t.Errorf("dirty: %+v", r)
	}
	r = g.aivm(g.repo, "git", "status")
	if r.code != 0 || !strings.Contains(r.stdout, "Not committed in the VM: M a.txt") || !strings.Contains(r.stdout, "1 commit behind") {
		t.Errorf("status: %+v", r)
	}
	g.equal("the guest's file", g.inClone("tail -n1 a.txt"), "mine")
	if r := g.aivm(g.repo, "code", "."); r.code != 0 || !strings.Contains(r.stderr, "not clean: a.txt") {
		t.Errorf("code with a clone that is not clean: %+v", r)
	}
	g.inClone("git checkout -q a.txt")
	g.must(g.repo, "git", "push")
	other := filepath.Join(g.home, "work", "other")
	g.host("clone", "-q", g.repo, other)
	g.guest(g.vm, "mkdir -p work/other && echo x >work/other/mine")
	if r := g.aivm(other, "attach", ".", "--mode", "git", "--yes"); r.code != 2 || !strings.Contains(r.stderr, "not empty and is not a git repo") {
		t.Errorf("attach with other files at the guest path: %+v", r)
	}
	if r := g.must("", "list", "--json"); strings.Contains(r.stdout, other) {
		t.Error("the refused folder was recorded")
	}
	if text := readAll(t, filepath.Join(other, ".git/config")); strings.Contains(text, "aivm") {
		t.Errorf("the refused attach left a remote:\n%s", text)
	}
}

func (g *gitWorld) uncommitted(t *testing.T) {
	write(t, filepath.Join(g.repo, "a.txt"), "uncommitted\n", 0o644)
	write(t, filepath.Join(g.repo, "new.txt"), "new\n", 0o644)
	before := g.git("status", "--porcelain") + g.git("rev-parse", "HEAD")
	if r := g.must(g.repo, "git", "push", "--include-uncommitted"); !strings.Contains(r.stdout, "its folder shows the files") {
		t.Errorf("%+v", r)
	}
	g.equal("the guest's files", g.inClone("cat a.txt new.txt"), "uncommitted\nnew")
	g.equal("the host's repository", g.git("status", "--porcelain")+g.git("rev-parse", "HEAD"), before)
	at := g.commit("h.txt", "eight\n")
	g.must(g.repo, "git", "push")
	g.equal("the guest's commit", g.inClone("git rev-parse HEAD && git status --porcelain"), at)
}

// cutter is a proxy to the guest's SSH port that closes the connection after a number of bytes.
type cutter struct {
	budget atomic.Int64 // bytes until the connection is closed
	ln     net.Listener
}

func newCutter(t *testing.T, to string) *cutter {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{ln: ln}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			a, err := ln.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp", to)
			if err != nil {
				_ = a.Close()
				continue
			}
			pass := func(dst, src net.Conn) {
				defer a.Close()
				defer b.Close()
				buf := make([]byte, 4<<10)
				for {
					n, err := src.Read(buf)
					if err != nil || c.budget.Add(int64(-n)) <= 0 {
						return
					}
					if _, err := dst.Write(buf[:n]); err != nil {
						return
					}
				}
			}
			go pass(a, b)
			go pass(b, a)
		}
	}()
	return c
}

func (g *gitWorld) cutConnections(t *testing.T) {
	state := filepath.Join(g.home, ".local/state/aivm")
	key, err := ssh.ParsePrivateKey([]byte(readAll(t, filepath.Join(state, "id_ed25519"))))
	if err != nil {
		t.Fatal(err)
	}
	_, _, pub, _, _, err := ssh.ParseKnownHosts([]byte(readAll(t, filepath.Join(state, g.vm, "known_hosts"))))
	if err != nil {
		t.Fatal(err)
	}
	var inst struct{ Address string }
	if err := json.Unmarshal([]byte(readAll(t, filepath.Join(state, g.vm, "instance.json"))), &inst); err != nil {
		t.Fatal(err)
	}
	c := newCutter(t, inst.Address+":22")
	rng := rand.New(rand.NewPCG(3, 4))
	random := func(n int) string {
		var b strings.Builder
		for b.Len() < n {
			fmt.Fprintf(&b, "%x\n", rng.Uint64())
		}
		return b.String()
	}
	repo, err := gitsync.Find(g.repo)
	if err != nil {
		t.Fatal(err)
	}
	through := 0
	for i := range gitCuts {
		ctx := t.Context()
		g.commit("cut", random(20_000))
		c.budget.Store(1 << 40)
		conn, err := guest.Dial(ctx, guest.Target{Addr: c.ln.Addr().String(), User: "agent", HostKey: pub, Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}})
		if err != nil {
			t.Fatal(err)
		}
		// The guest checks its repository with git fsck and commits to another branch.
		var out strings.Builder
		script := `cd "$1" && git fsck --full --strict >/dev/null 2>/tmp/fsck || { cat /tmp/fsck; exit 1; }
git checkout -q -B side && head -c 15000 /dev/urandom | base64 >side && git add side && git -c user.name=G -c user.email=g@x commit -q -m side && git checkout -q main`
		if code, err := conn.Run(ctx, guest.Cmd{Argv: []string{"sh", "-c", script, "sh", g.dst}, Stdout: &out, Stderr: &out}); err != nil || code != 0 {
			t.Fatalf("cut %d: the guest: %v %d %s", i, err, code, out.String())
		}
		h, err := gitsync.Observe(ctx, repo, "aivm-"+g.vm)
		if err != nil {
			t.Fatal(err)
		}
		ans, err := conn.Probe(ctx, []guest.Probe{{Name: "git", Script: gitsync.GuestProbe(g.dst)}})
		if err != nil {
			t.Fatal(err)
		}
		gu, err := gitsync.ParseGuest(ans["git"])
		if err != nil {
			t.Fatal(err)
		}
		c.budget.Store(1 + rng.Int64N(75_000))
		p := gitsync.Peer{Conn: conn, VM: g.vm, Dir: g.dst}
		_, _, err = gitsync.Fetch(ctx, p, &h, gu)
		if err == nil {
			var problem error
			if _, problem, err = gitsync.PushBranch(ctx, p, &h, &gu); problem != nil {
				t.Fatalf("cut %d: %v", i, problem)
			}
		}
		if err == nil {
			through++
		}
		_ = conn.Close()
		g.git("fsck", "--full", "--strict")
	}
	t.Logf("%d of %d transfers ended before the cut", through, gitCuts)
	if through > gitCuts*7/10 {
		t.Error("most transfers ended before the cut, so this test shows too little")
	}
	g.must(g.repo, "git", "push")
	g.must(g.repo, "git", "fetch")
	g.equal("the guest's commit", g.inClone("git fsck --full && git rev-parse main && git status --porcelain"), g.git("rev-parse", "main"))
	g.equal("fetched", g.git("rev-parse", "aivm-"+g.vm+"/side"), g.inClone("git rev-parse side"))
	if leftover, _ := filepath.Glob(filepath.Join(g.home, "work", "*", ".git/objects/tmp_*")); len(leftover) > 0 {
		t.Errorf("leftover temporary files: %v", leftover)
	}
}

func (g *gitWorld) lyingGuest(t *testing.T) {
	config, refs := readAll(t, filepath.Join(g.repo, ".git/config")), g.git("for-each-ref")
	g.commitInClone("liar", "x")
	// The guest's git sends 20 MB of zeros to a fetch, and lists commits that it does not have.
	lie := `#!/bin/sh
case "$*" in
*upload-pack*) exec head -c 20000000 /dev/zero ;;
*for-each-ref*) echo "1111111111111111111111111111111111111111 refs/heads/evil"; echo "2222222222222222222222222222222222222222 refs/heads/../../x"; exit 0 ;;
esac
exec /usr/bin/git "$@"
`
	if r := g.ssh([]byte(lie), g.vm, "sudo -n tee /usr/local/bin/git >/dev/null && sudo -n chmod 755 /usr/local/bin/git"); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	if r := g.aivm(g.repo, "git", "fetch"); r.code != 2 || !strings.Contains(r.stderr, "nothing was fetched") {
		t.Errorf("%+v", r)
	}
	if r := g.aivm(g.repo, "code", "."); r.code != 0 {
		t.Errorf("code must open the editor although the fetch failed: %+v", r)
	}
	g.guest(g.vm, "sudo -n rm /usr/local/bin/git")
	g.equal(".git/config", readAll(t, filepath.Join(g.repo, ".git/config")), config)
	g.equal("the refs", g.git("for-each-ref"), refs)
	g.git("fsck", "--full", "--strict")
	// More than --max-size allows.
	g.inClone("head -c 3000000 /dev/urandom >big && git add big && git -c user.name=G -c user.email=g@x commit -q -m big")
	if r := g.aivm(g.repo, "git", "fetch", "--max-size", "1MB"); r.code != 2 || !strings.Contains(r.stderr, "--max-size") {
		t.Errorf("%+v", r)
	}
	g.must(g.repo, "git", "fetch", "--max-size", "100MB")
}
