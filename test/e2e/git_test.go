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

// newGitWorld has its repository in a folder whose name a shell would split.
func newGitWorld(w *world, vm string) *gitWorld {
	return &gitWorld{world: w, vm: vm, repo: filepath.Join(w.home, "work", "my repo é & 'q'"), dst: "/home/agent/work/my repo é & 'q'"}
}

// all is a repository and its clone in a VM: used both ways, cut off, lied to,
// and detached.
func (g *gitWorld) all(t *testing.T) {
	g.host("init", "-q", g.repo)
	g.commit("a.txt", "one\n")
	g.git("tag", "-a", "-m", "first", "v1")
	g.config = readAll(t, filepath.Join(g.repo, ".git/config"))
	step := g.steps()
	step("attached", g.attached)
	step("code, and again with nothing to move", g.warm)
	step("both ways", g.bothWays)
	step("what git obeys", g.obeys)
	step("plain git", g.plain)
	step("refused", g.refused)
	step("uncommitted", g.uncommitted)
	step("cut at random points", g.cut)
	step("a guest that lies", g.lies)
	step("what only the VM has", g.onlyThere)
	step("detached", g.gone)
}

type gitWorld struct {
	*world
	vm, repo, dst string
	config        string // the repository's configuration before aivm came
}

func readAll(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// host runs the plain git of this machine.
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

// there runs a line in the clone.
func (g *gitWorld) there(line string) string {
	g.t.Helper()
	return g.guest(g.vm, `cd "/home/agent/work/my repo é & 'q'" && `+line)
}

func (g *gitWorld) commitThere(name, text string) string {
	g.t.Helper()
	return g.there("printf %s " + text + " >" + name + " && git add -A && git -c user.name=G -c user.email=g@example.org commit -q -m " + name + " && git rev-parse HEAD")
}

func (g *gitWorld) equal(what, got, want string) {
	g.t.Helper()
	if got != want {
		g.t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// attached: killed at every action in the long run; the clone is what is here.
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
	g.equal("the guest's commit", g.there("git rev-parse HEAD"), g.git("rev-parse", "HEAD"))
	g.equal("the guest's tag", g.there("git tag"), "v1")
	g.equal("the guest's files", g.there("git status --porcelain && cat a.txt"), "one")
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
	r := g.must(g.repo, "code", ".")
	rec := g.opened()
	if rec.Error != "" || rec.Path != g.dst {
		t.Errorf("%+v %+v", rec, r)
	}
	logins := func() string {
		return g.login(g.vm, `sudo -n journalctl -u ssh -o cat --no-pager | grep -c 'Accepted publickey'`)
	}
	before, files := logins(), snapshot(t, g.repo)
	g.run(g.repo, nil, []string{"FAKECODE_QUICK=1"}, filepath.Join(bin, "aivm"), "code", ".")
	var n, m int
	_, _ = fmt.Sscan(before, &n)
	if _, _ = fmt.Sscan(logins(), &m); m-n != 2 { // the run's one and the count's own
		t.Errorf("%d logins", m-n-1)
	}
	if !sameMap(files, snapshot(t, g.repo)) {
		t.Error("a run with nothing to move wrote to the repository")
	}
	if ids := dryActions(t, g.must(g.repo, "code", ".", "--dry-run", "--json").stdout); len(ids) != 0 {
		t.Errorf("to be done: %v", ids)
	}
}

func (g *gitWorld) bothWays(t *testing.T) {
	theirs := g.commitThere("b.txt", "two")
	g.there("git branch agent/idea")
	at := g.commit("c.txt", "three\n")
	r := g.aivm(g.repo, "ssh", ".", "--", "git", "log", "--format=%s", "-1")
	if r.code != 0 || strings.TrimSpace(r.stdout) != "b.txt" || !strings.Contains(r.stderr, "has diverged (new commits: 1 on this machine, 1 in VM") {
		t.Errorf("diverged: %+v", r)
	}
	g.equal("fetched", g.git("rev-parse", "aivm-"+g.vm+"/main")+g.git("rev-parse", "aivm-"+g.vm+"/agent/idea"), theirs+theirs)
	g.equal("the host's branch", g.git("rev-parse", "main"), at)
	if r := g.aivm(g.repo, "git", "pull"); r.code != 2 || !strings.Contains(r.stderr, "only fast-forwards") {
		t.Errorf("pull of two ways: %+v", r)
	}
	g.git("merge", "-q", "--no-edit", "aivm-"+g.vm+"/main")
	g.must(g.repo, "git", "push")
	g.equal("the guest's commit", g.there("git rev-parse HEAD && git status --porcelain"), g.git("rev-parse", "main"))

	g.there("printf '#!/bin/sh\\n' >run.sh && chmod +x run.sh")
	theirs = g.commitThere("Makefile", "all:")
	g.must(g.repo, "git", "fetch") // on a busy machine the VM may not answer diff in time, which then shows what there is
	if out := g.must(g.repo, "git", "diff", "--stat").stdout; !strings.Contains(out, "Makefile") {
		t.Errorf("diff: %s", out)
	}
	if out := g.must(g.repo, "git", "log").stdout; !strings.Contains(out, "G: Makefile") {
		t.Errorf("log: %s", out)
	}
	r = g.aivm(g.repo, "git", "pull")
	if r.code != 3 || !strings.Contains(r.stderr, "Makefile") || !strings.Contains(r.stderr, "run.sh (executable)") {
		t.Errorf("pull of what this machine runs: %+v", r)
	}
	g.must(g.repo, "git", "pull", "--yes")
	g.equal("pulled", g.git("rev-parse", "main"), theirs)
	g.equal("its file", readAll(t, filepath.Join(g.repo, "Makefile")), "all:")

	g.git("switch", "-q", "-c", "feature/x")
	at = g.commit("d.txt", "four\n")
	g.must(g.repo, "code", ".")
	g.equal("the guest follows", g.there("git symbolic-ref --short HEAD && git rev-parse HEAD && git status --porcelain"), "feature/x\n"+at)
	g.git("switch", "-q", "main")
	g.must(g.repo, "git", "push")
}

func (g *gitWorld) plain(t *testing.T) {
	at := g.commit("e.txt", "five\n")
	g.git("push", "-q", "aivm-"+g.vm, "main")
	g.equal("pushed by hand", g.there("git rev-parse main && git status --porcelain"), at)
	theirs := g.commitThere("f.txt", "six")
	g.git("fetch", "-q", "aivm-"+g.vm)
	g.equal("fetched by hand", g.git("rev-parse", "aivm-"+g.vm+"/main"), theirs)
	g.must(g.repo, "git", "pull")
	g.equal("pulled", g.git("rev-parse", "main"), theirs)
}

func (g *gitWorld) refused(t *testing.T) {
	g.there("echo mine >>a.txt")
	g.commit("g.txt", "seven\n")
	r := g.aivm(g.repo, "git", "push")
	if r.code != 2 || !strings.Contains(r.stderr, "not clean: a.txt") {
		t.Errorf("dirty: %+v", r)
	}
	r = g.aivm(g.repo, "git", "status")
	if r.code != 0 || !strings.Contains(r.stdout, "Not committed in the VM: M a.txt") || !strings.Contains(r.stdout, "1 commit behind") {
		t.Errorf("status: %+v", r)
	}
	g.equal("the guest's file", g.there("tail -n1 a.txt"), "mine")
	if r := g.aivm(g.repo, "code", "."); r.code != 0 || !strings.Contains(r.stderr, "not clean: a.txt") {
		t.Errorf("code opens all the same: %+v", r)
	}
	g.there("git checkout -q a.txt")
	g.must(g.repo, "git", "push")
	other := filepath.Join(g.home, "work", "other")
	g.host("clone", "-q", g.repo, other)
	g.guest(g.vm, "mkdir -p work/other && echo x >work/other/mine")
	if r := g.aivm(other, "attach", ".", "--mode", "git", "--yes"); r.code != 2 || !strings.Contains(r.stderr, "not empty and is not a git repo") {
		t.Errorf("something else in its place: %+v", r)
	}
	if r := g.must("", "list", "--json"); strings.Contains(r.stdout, other) {
		t.Error("a record of what was refused is left")
	}
	if text := readAll(t, filepath.Join(other, ".git/config")); strings.Contains(text, "aivm") {
		t.Errorf("the remote of what was refused is left:\n%s", text)
	}
}

func (g *gitWorld) uncommitted(t *testing.T) {
	write(t, filepath.Join(g.repo, "a.txt"), "uncommitted\n", 0o644)
	write(t, filepath.Join(g.repo, "new.txt"), "new\n", 0o644)
	before := g.git("status", "--porcelain") + g.git("rev-parse", "HEAD")
	if r := g.must(g.repo, "git", "push", "--include-uncommitted"); !strings.Contains(r.stdout, "its folder shows the files") {
		t.Errorf("%+v", r)
	}
	g.equal("the guest's files", g.there("cat a.txt new.txt"), "uncommitted\nnew")
	g.equal("here", g.git("status", "--porcelain")+g.git("rev-parse", "HEAD"), before)
	at := g.commit("h.txt", "eight\n")
	g.must(g.repo, "git", "push")
	g.equal("the guest's commit", g.there("git rev-parse HEAD && git status --porcelain"), at)
}

// cutter passes bytes to the guest's SSH port until its budget is spent.
type cutter struct {
	left atomic.Int64
	ln   net.Listener
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
					if err != nil || c.left.Add(int64(-n)) <= 0 {
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

func (g *gitWorld) cut(t *testing.T) {
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
		c.left.Store(1 << 40)
		conn, err := guest.Dial(ctx, guest.Target{Addr: c.ln.Addr().String(), User: "agent", HostKey: pub, Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}})
		if err != nil {
			t.Fatal(err)
		}
		// The guest commits too, and says that all it has is whole.
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
		c.left.Store(1 + rng.Int64N(75_000))
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
	t.Logf("%d of %d came through before the cut", through, gitCuts)
	if through > gitCuts*7/10 {
		t.Error("the cuts came too late to mean anything")
	}
	g.must(g.repo, "git", "push")
	g.must(g.repo, "git", "fetch")
	g.equal("the guest's commit", g.there("git fsck --full && git rev-parse main && git status --porcelain"), g.git("rev-parse", "main"))
	g.equal("fetched", g.git("rev-parse", "aivm-"+g.vm+"/side"), g.there("git rev-parse side"))
	if left, _ := filepath.Glob(filepath.Join(g.home, "work", "*", ".git/objects/tmp_*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func (g *gitWorld) lies(t *testing.T) {
	config, refs := readAll(t, filepath.Join(g.repo, ".git/config")), g.git("for-each-ref")
	g.commitThere("liar", "x")
	// The guest's git floods whoever fetches, and claims a commit it lacks.
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
		t.Errorf("the editor has to open all the same: %+v", r)
	}
	g.guest(g.vm, "sudo -n rm /usr/local/bin/git")
	g.equal("the configuration", readAll(t, filepath.Join(g.repo, ".git/config")), config)
	g.equal("the refs", g.git("for-each-ref"), refs)
	g.git("fsck", "--full", "--strict")
	// More than is agreed to.
	g.there("head -c 3000000 /dev/urandom >big && git add big && git -c user.name=G -c user.email=g@x commit -q -m big")
	if r := g.aivm(g.repo, "git", "fetch", "--max-size", "1MB"); r.code != 2 || !strings.Contains(r.stderr, "--max-size") {
		t.Errorf("%+v", r)
	}
	g.must(g.repo, "git", "fetch", "--max-size", "100MB")
}
