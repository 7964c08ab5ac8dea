//go:build long

package e2e

import (
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestWalk kills every command at each of its fault points, then at random moments. The final state
// must be the same as after an undisturbed run.
func TestWalk(t *testing.T) {
	w := rootWorld(t)
	const vm, network = "e2ewalk", "e2e-walk"
	write(t, filepath.Join(w.home, ".config/aivm/config.toml"), "[defaults.vm]\nname = \""+vm+"\"\nram_mb = 1536\ncpus = 1\n\n"+
		"[defaults.network]\nname = \""+network+"\"\nbridge = \"vbr-e2e-walk\"\nsubnet_cidr = \"10.94.41.0/24\"\ngateway_ip = \"10.94.41.1\"\ndhcp_start = \"10.94.41.100\"\ndhcp_end = \"10.94.41.200\"\n", 0o600)
	write(t, filepath.Join(w.home, ".ssh/config"), "Host other\n\tUser me\n", 0o644)
	write(t, filepath.Join(w.home, ".gitconfig"), "[user]\n\tname = Ann\n\temail = ann@example.org\n", 0o644)
	write(t, filepath.Join(w.home, ".tmux.conf"), "set -g mouse on\n", 0o600)
	t.Cleanup(func() { w.aivm("", "vm", "delete", vm, "--yes", "--discard-work") })
	x := &walker{w: w, vm: vm, network: network, project: w.project("p"), folder: w.project("f"), repo: filepath.Join(w.home, "repo")}
	write(t, filepath.Join(x.project, "hello"), "hello\n", 0o644)
	write(t, filepath.Join(x.folder, "hello"), "hello\n", 0o644)
	chownAll(t, x.project)
	chownAll(t, x.folder)
	write(t, filepath.Join(x.repo, "a"), "one\n", 0o644)
	x.git(t, "init", "-q", "-b", "main")
	x.git(t, "add", "-A")
	x.git(t, "commit", "-qm", "one")

	step := w.steps()
	step("code, cold", x.cold)
	step("attach and detach", x.folders)
	step("code after a loss", x.restored)
	step("settings", x.settings)
	step("git", x.commits)
	step("off and on", x.power)
	step("snapshots", x.snapshots)
	step("an image", x.image)
	step("at random moments", x.randomKills)
	step("delete", x.deleted)
}

type walker struct {
	w                                  *world
	vm, network, project, folder, repo string
}

func (x *walker) git(t *testing.T, args ...string) string {
	t.Helper()
	r := x.w.run(x.repo, nil, nil, append([]string{"git"}, args...)...)
	if r.code != 0 {
		t.Fatalf("git %v: %s", args, r.stderr)
	}
	return strings.TrimSpace(r.stdout)
}

// killed walks a command and checks that it was killed at least at so many fault points.
func (x *walker) killed(t *testing.T, dir string, least int, args ...string) {
	t.Helper()
	points := walk(t, x.w, dir, nil, args...)
	t.Logf("%s: killed at %d points", strings.Join(args, " "), len(points))
	if len(points) < least {
		t.Errorf("%v was killed at only %v", args, points)
	}
}

func (x *walker) state(t *testing.T) map[string]string {
	t.Helper()
	return state(t, x.w, x.vm, x.network)
}

func (x *walker) cold(t *testing.T) {
	x.w.must(x.project, "code", ".", "--yes")
	want := x.state(t)
	x.w.must("", "vm", "delete", x.vm, "--yes")
	x.killed(t, x.project, 30, "code", ".", "--yes")
	same(t, "code", x.state(t), want)
}

func (x *walker) folders(t *testing.T) {
	for _, mode := range []string{"shared-root", "shared", "git"} {
		dir := x.folder
		if mode == "git" {
			dir = x.repo
		}
		attach := []string{"attach", ".", "--mode", mode, "--yes"}
		x.w.must(dir, attach...)
		attached := x.state(t)
		x.w.must(dir, "detach", ".", "--yes")
		detached := x.state(t)
		x.killed(t, dir, 4, attach...)
		same(t, "attach "+mode, x.state(t), attached)
		x.killed(t, dir, 2, "detach", ".", "--yes")
		same(t, "detach "+mode, x.state(t), detached)
		if leftover, _ := filepath.Glob(filepath.Join(x.w.home, ".local/state/aivm/"+x.vm+"/git-*")); leftover != nil {
			t.Errorf("detach left %v in the state directory", leftover)
		}
	}
}

// restored deletes firewall tables, a mount and ssh files, which `host fw apply` and `code` restore.
func (x *walker) restored(t *testing.T) {
	want := x.state(t)
	flush := func() {
		for _, table := range strings.Split(runHost(t, "nft", "list", "tables"), "\n") {
			if strings.Contains(table, "aivm") {
				runHost(t, append([]string{"nft", "delete"}, strings.Fields(table)...)...)
			}
		}
	}
	flush()
	x.killed(t, "", 2, "host", "fw", "apply", "--yes")
	same(t, "host fw apply", x.state(t), want)

	flush()
	x.w.guest(x.vm, "sudo -n umount "+q(x.project))
	for _, p := range []string{".ssh/aivm", ".ssh/config.d/aivm"} {
		_ = os.RemoveAll(filepath.Join(x.w.home, p))
	}
	write(t, filepath.Join(x.w.home, ".ssh/config"), "Host other\n\tUser me\n", 0o644)
	x.killed(t, x.project, 4, "code", ".", "--yes")
	same(t, "code after a loss", x.state(t), want)
}

func (x *walker) settings(t *testing.T) {
	args := []string{"vm", "sync-settings", x.vm, "--paths", "~/.gitconfig,~/.tmux.conf", "--yes"}
	x.w.must("", args...)
	want := x.state(t)
	x.w.guest(x.vm, "rm -rf ~/.gitconfig ~/.tmux.conf ~/.local/state/aivm")
	x.killed(t, "", 2, args...)
	same(t, "sync-settings", x.state(t), want)
	if got := x.w.guest(x.vm, "cat .tmux.conf; git config user.email"); got != "set -g mouse on\nann@example.org" {
		t.Errorf("the guest has %q", got)
	}
}

func (x *walker) commits(t *testing.T) {
	x.w.must(x.repo, "attach", ".", "--mode", "git", "--yes")
	write(t, filepath.Join(x.repo, "b"), "two\n", 0o644)
	x.git(t, "add", "-A")
	x.git(t, "commit", "-qm", "two")
	x.killed(t, x.repo, 2, "git", "push", "--yes")
	inClone := func(line string) string { t.Helper(); return x.w.guest(x.vm, "cd ~/repo && "+line) }
	if a, b := x.git(t, "rev-parse", "HEAD"), inClone("git rev-parse HEAD && git status --porcelain && git fsck --full 2>&1"); a != b {
		t.Errorf("pushed %s, but the guest's HEAD and git fsck are %s", a, b)
	}
	c := inClone("echo three >c && git add -A && git -c user.name=G -c user.email=g@example.org commit -qm three && git rev-parse HEAD")
	x.killed(t, x.repo, 2, "git", "fetch", "--yes")
	if got := x.git(t, "rev-parse", "refs/remotes/aivm-"+x.vm+"/main"); got != c {
		t.Errorf("fetched %s, want the guest's commit %s", got, c)
	}
	if out := x.git(t, "fsck", "--full"); out != "" {
		t.Error(out)
	}
	x.killed(t, x.repo, 2, "git", "pull", "--yes")
	if got := x.git(t, "rev-parse", "HEAD"); got != c {
		t.Errorf("pulled %s, want the guest's commit %s", got, c)
	}
}

func (x *walker) power(t *testing.T) {
	want := x.state(t)
	x.killed(t, "", 2, "vm", "down", x.vm, "--yes")
	off := x.state(t)
	if strings.TrimSpace(off["running"]) != "shut off" {
		t.Errorf("after vm down the VM is %s", off["running"])
	}
	x.killed(t, "", 2, "vm", "up", x.vm, "--yes")
	same(t, "down and up", x.state(t), want)
}

func (x *walker) snapshots(t *testing.T) {
	x.w.guest(x.vm, "echo one >~/kept; sync")
	x.w.must("", "vm", "down", x.vm, "--yes")
	// A snapshot that was created and deleted undisturbed leaves an empty list in the definition.
	x.w.must("", "vm", "snapshot", "other", "--vm", x.vm, "--yes")
	x.w.must("", "vm", "snapshot-delete", "other", "--vm", x.vm, "--yes")
	before := x.state(t)
	names := func() string { t.Helper(); return x.w.must("", "vm", "snapshots", x.vm).stdout }
	once := func(done string, args ...string) {
		t.Helper()
		if points := walkUntil(t, x.w, "", nil, done, args...); len(points) < 2 {
			t.Errorf("%v was killed at only %v", args, points)
		}
	}
	once("already", "vm", "snapshot", "first", "--vm", x.vm, "--yes")
	if s := names(); strings.Count(s, "first") != 1 {
		t.Errorf("snapshots:\n%s", s)
	}
	x.w.must("", "vm", "up", x.vm, "--yes")
	x.w.guest(x.vm, "echo two >~/kept; sync")
	x.w.must("", "vm", "down", x.vm, "--yes")
	x.killed(t, "", 2, "vm", "rollback", "first", "--vm", x.vm, "--yes")
	if s := names(); !strings.Contains(s, "before-rollback-") {
		t.Errorf("rollback kept no snapshot of the present:\n%s", s)
	}
	disk := "/var/lib/libvirt/aivm/0-" + x.vm + ".qcow2"
	runHost(t, "qemu-img", "check", "-q", disk)
	for line := range strings.Lines(names()) {
		if f := strings.Fields(line); len(f) > 0 {
			for _, n := range f {
				if n == "first" || strings.HasPrefix(n, "before-rollback-") {
					once("no snapshot", "vm", "snapshot-delete", n, "--vm", x.vm, "--yes")
				}
			}
		}
	}
	runHost(t, "qemu-img", "check", "-q", disk)
	same(t, "all snapshots deleted", x.state(t), before)
	x.w.must("", "vm", "up", x.vm, "--yes")
	if got := x.w.guest(x.vm, "cat ~/kept"); got != "one" {
		t.Errorf("after the rollback ~/kept is %q", got)
	}
}

// image fetches a local file, killed at each fault point, and verifies it.
func (x *walker) image(t *testing.T) {
	file := filepath.Join(x.w.home, "small.qcow2")
	runHost(t, "qemu-img", "create", "-q", "-f", "qcow2", file, "64M")
	cache := []string{"XDG_CACHE_HOME=" + filepath.Join(x.w.home, "cache")}
	points := walk(t, x.w, "", cache, "image", "fetch", file, "--yes")
	t.Logf("image fetch: killed at %d points", len(points))
	if len(points) < 2 {
		t.Errorf("killed only at %v", points)
	}
	if r := x.w.run("", nil, cache, filepath.Join(bin, "aivm"), "image", "verify", file); r.code != 0 {
		t.Errorf("%+v", r)
	}
	leftover, _ := filepath.Glob(filepath.Join(x.w.home, "cache/aivm/images/.*"))
	for _, p := range leftover {
		if !strings.HasSuffix(p, ".lock") {
			t.Errorf("leftover file: %s", p)
		}
	}
}

// randomKills kills commands at random moments. list and status must work in between, and at the
// end the state must be as before.
func (x *walker) randomKills(t *testing.T) {
	want := x.state(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("the seed is %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 7))
	verbs := []struct {
		dir   string
		longS float64 // seconds it can take
		args  []string
	}{
		{x.project, 3, []string{"code", ".", "--yes"}},
		{x.folder, 3, []string{"attach", ".", "--yes"}},
		{x.folder, 3, []string{"detach", ".", "--yes"}},
		{x.repo, 2.5, []string{"git", "push", "--yes"}},
		{x.repo, 2.5, []string{"git", "fetch", "--yes"}},
		{"", 2.5, []string{"vm", "sync-settings", x.vm, "--paths", "~/.gitconfig,~/.tmux.conf", "--yes"}},
		{"", .3, []string{"host", "fw", "apply", "--yes"}},
		{x.project, 2.5, []string{"ssh", ".", "--", "true"}},
	}
	died := 0
	for i := range 40 {
		v := verbs[rnd.IntN(len(verbs))]
		after := time.Duration(rnd.Float64() * v.longS * float64(time.Second))
		ctx, cancel := context.WithTimeout(context.Background(), after)
		c := exec.CommandContext(ctx, filepath.Join(bin, "aivm"), v.args...) // SIGKILL at the deadline
		c.Dir, c.Env = firstNonEmpty(v.dir, x.w.home), x.w.env
		out, err := c.CombinedOutput()
		if ctx.Err() != nil {
			died++
		} else if err != nil {
			t.Errorf("%d: %v was not killed and failed: %v\n%s", i, v.args, err, out)
		}
		cancel()
		if i%8 == 7 {
			x.w.must("", "list")
			if r := x.w.aivm(x.project, "status"); r.code != 0 && r.code != 2 {
				t.Errorf("status: %+v", r)
			}
		}
	}
	t.Logf("%d of 40 were killed before their end", died)
	if died < 5 { // on a fast host many commands end before they would be killed
		t.Errorf("only %d of 40 were killed", died)
	}
	x.w.must(x.project, "code", ".", "--yes")
	x.w.must(x.repo, "code", ".", "--yes")
	x.w.must(x.folder, "attach", ".", "--yes")
	x.w.must(x.folder, "detach", ".", "--yes")
	x.w.must("", "vm", "sync-settings", x.vm, "--paths", "~/.gitconfig,~/.tmux.conf", "--yes")
	same(t, "after kills at random moments", x.state(t), want)
	if b := readAll(t, filepath.Join(x.folder, "hello")); b != "hello\n" {
		t.Errorf("the folder has %q", b)
	}
}

func (x *walker) deleted(t *testing.T) {
	if points := walkUntil(t, x.w, "", nil, "not found", "vm", "delete", x.vm, "--yes"); len(points) < 20 {
		t.Errorf("killed only at %v", points)
	}
	// TestGuards and TestUse search the entire host after a delete.
	if s := x.w.must("", "list", "--json").stdout + virsh(t, "list", "--all", "--name"); strings.Contains(s, x.vm) {
		t.Errorf("list or virsh still name VM %s: %s", x.vm, s)
	}
	if leftover, _ := filepath.Glob("/var/lib/libvirt/aivm/0-" + x.vm + "*"); leftover != nil {
		t.Errorf("leftover files in the pool: %v", leftover)
	}
	for _, p := range []string{x.project, x.folder} {
		if b := readAll(t, filepath.Join(p, "hello")); b != "hello\n" {
			t.Errorf("%s has %q", p, b)
		}
	}
	if r := x.git(t, "remote"); r != "" {
		t.Errorf("remotes: %s", r)
	}
}
