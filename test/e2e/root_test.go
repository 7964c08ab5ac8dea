package e2e

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// killWalk kills the first `code` of a new VM, with settings sync, with SIGKILL at each of its fault
// points. All runs together need one boot.
func killWalk(t *testing.T, w *world, project string) {
	points := walk(t, w, project, []string{"FAKECODE_WRITE=from-the-editor"}, "code", ".", "--sync-paths", "~/.gitignore,~/.tmux.conf", "--yes")
	if got := w.guest("e2efirst", "cat .gitignore .tmux.conf"); got != "*.swp\nset -g mouse on" {
		t.Errorf("the settings in the guest: %q", got)
	}
	t.Logf("killed at %d points", len(points))
	if len(points) < 15*killsOfAction {
		t.Errorf("only %d fault points: %v", len(points), points)
	}
	rec := w.opened()
	if rec.Error != "" || rec.Asked || !rec.Forward || !rec.Folder {
		t.Errorf("the editor: %+v", rec)
	}
	if b, err := os.ReadFile(filepath.Join(project, "from-the-editor")); err != nil || len(b) == 0 {
		t.Errorf("the file that the editor wrote: %v %q", err, b)
	}
}

func checkVM(t *testing.T, w *world, vm, project string) {
	xml := virsh(t, "dumpxml", "--inactive", vm)
	for _, want := range []string{"urn:aivm:mark:1", "owner=['\"]0['\"]", "isolated=['\"]yes['\"]", "memfd", "org.qemu.guest_agent.0", "aivm-root"} {
		if !regexp.MustCompile(want).MatchString(xml) {
			t.Errorf("the definition lacks %s", want)
		}
	}
	if strings.Contains(xml, "aivm-seed") {
		t.Error("the seed is still in the definition")
	}
	if _, err := os.Stat("/var/lib/libvirt/aivm/0-" + vm + ".seed"); !os.IsNotExist(err) {
		t.Errorf("the seed still exists: %v", err)
	}
	for what, line := range map[string]string{
		"user":           `[ "$(id -u):$(id -un)" = 1000:agent ]`,
		"sudo":           `sudo -n true`,
		"locked":         `sudo -n passwd -S agent | grep -q ' L '`,
		"root closed":    `sudo -n grep -q '^PermitRootLogin no' /etc/ssh/sshd_config.d/10-aivm.conf`,
		"one host key":   `[ "$(ls /etc/ssh/ssh_host_*_key)" = /etc/ssh/ssh_host_ed25519_key ]`,
		"inotify":        `grep -q 524288 /etc/sysctl.d/60-aivm.conf`,
		"hostname":       `[ "$(hostname)" = ` + vm + ` ]`,
		"cloud-init off": `for i in $(seq 120); do [ -e /etc/cloud/cloud-init.disabled ] && exit 0; sleep 1; done; exit 1`,
		"internet's DNS": `getent hosts ` + vm,
	} {
		if r := w.ssh(nil, vm, line); r.code != 0 {
			t.Errorf("%s: %q in the guest: exit %d %s%s", what, line, r.code, r.stdout, r.stderr)
		}
	}
	if r := w.ssh(nil, "-o", "PubkeyAuthentication=no", "-o", "PreferredAuthentications=password,keyboard-interactive", vm, "true"); r.code == 0 || !strings.Contains(r.stderr, "Permission denied (publickey)") {
		t.Errorf("a login without a key: %+v", r)
	}
	cfg, err := os.ReadFile(filepath.Join(w.home, ".ssh/config"))
	if err != nil || !strings.HasSuffix(string(cfg), "Host other\n\tUser me\n") || !strings.HasPrefix(string(cfg), "# >>> aivm store ") {
		t.Errorf("~/.ssh/config: %v\n%s", err, cfg)
	}
	config, err := os.ReadFile(filepath.Join(w.home, ".config/aivm/config.toml"))
	if err != nil || !strings.HasPrefix(string(config), "# mine\n[defaults.vm]\nname = \"e2efirst\"\nram_mb = 2048 # enough\n") && !strings.Contains(string(config), "ram_mb = 2048 # enough\n") {
		t.Errorf("the config lost lines or comments: %v\n%s", err, config)
	}
	for _, p := range []string{".local/state/aivm/e2efirst/host_ed25519", ".local/state/aivm/id_ed25519", ".config/aivm/ssh/e2efirst.conf"} {
		if st, err := os.Stat(filepath.Join(w.home, p)); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", p, err, st)
		}
	}
}

func checkShare(t *testing.T, w *world, vm, project string) {
	q := "'" + strings.ReplaceAll(project, "'", `'\''`) + "'"
	if got := w.guest(vm, "cat "+q+"/hello.txt"); got != "hello" {
		t.Errorf("the guest reads %q", got)
	}
	// The guest's virtiofs mounts: the device and the folder. The mounts that the kernel adds below
	// /run/aivm/share, if virtiofsd announces submounts, do not count.
	mi := w.guest(vm, `grep ' - virtiofs ' /proc/self/mountinfo | grep -v ' /run/aivm/share/'`)
	if n := strings.Count(mi, "\n") + 1; n != 2 {
		t.Errorf("%d virtiofs mounts:\n%s", n, mi)
	}
	w.guest(vm, "cd "+q+" && echo x > by-agent && sudo -n sh -c 'echo x > by-root; cp /bin/true setuid; chmod 4755 setuid' && mv by-agent moved && ln moved linked && mkdir d && git init -q repo && cd repo && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m x")
	owner := func(name string) uint32 {
		st, err := os.Stat(filepath.Join(project, name))
		if err != nil {
			t.Fatal(err)
		}
		return st.Sys().(*syscall.Stat_t).Uid
	}
	for name, want := range map[string]uint32{"moved": 0, "linked": 0, "d": 0, "repo/.git/HEAD": 0, "by-root": 65534, "setuid": 65534} {
		if got := owner(name); got != want {
			t.Errorf("%s belongs to %d on the host, not %d", name, got, want)
		}
	}
	write(t, filepath.Join(project, "by-host"), "host\n", 0o600)
	if got := w.guest(vm, "stat -c %U "+q+"/by-host && cat "+q+"/by-host"); got != "agent\nhost" {
		t.Errorf("the guest sees %q", got)
	}
	if out := runHost(t, "findmnt", "-rno", "OPTIONS", "-R", "/var/lib/aivm/export/0-"+vm); !strings.Contains(out, "nosuid") || !strings.Contains(out, "nodev") || !strings.Contains(out, "idmapped") {
		t.Errorf("options of the mounts below the export directory: %s", out)
	}
}

// checkWarm tests that a repeated `code` needs no consent, logs in once, and writes nothing.
func checkWarm(t *testing.T, w *world, vm, project string) {
	count := func() int {
		n, err := strconv.Atoi(w.login(vm, `sudo -n journalctl -u ssh -o cat --no-pager | grep -c 'Accepted publickey'`))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	w.must(project, "code", ".") // removes the seed, which the first run could not
	before, logins, xml := snapshot(t, w.home), count(), virsh(t, "dumpxml", vm)
	r := w.run(project, nil, []string{"FAKECODE_QUICK=1"}, filepath.Join(bin, "aivm"), "code", ".")
	if r.code != 0 {
		t.Fatalf("%+v", r)
	}
	if n := count() - logins; n != 2 { // one login of the run, one of this count
		t.Errorf("%d logins in a repeated run, want 1", n-1)
	}
	after := snapshot(t, w.home)
	delete(before, "code.log")
	delete(after, "code.log")
	if !sameMap(before, after) {
		t.Errorf("a repeated run wrote files: before\n%v\nafter\n%v", before, after)
	}
	if now := virsh(t, "dumpxml", vm); now != xml {
		t.Error("a repeated run changed the domain")
	}
	checkTiming(t, r)
}

// checkTiming checks that the figures in the timing line add up to the wall time.
func checkTiming(t *testing.T, r result) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(r.stderr), "\n")
	last := lines[len(lines)-1]
	sum := 0.0
	for _, f := range regexp.MustCompile(`[a-z]+ ([0-9.]+)`).FindAllStringSubmatch(last, -1) {
		v, err := strconv.ParseFloat(f[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += v
	}
	wall := r.took.Seconds()
	if d := sum - wall; d > 0.05*wall || d < -0.05*wall-0.05 {
		t.Errorf("the timing line %q adds up to %.2f s of %.2f s", last, sum, wall)
	}
	for _, b := range []string{"image", "define", "boot", "share", "ssh", "editor"} {
		if !strings.Contains(last, b) {
			t.Errorf("the timing line lacks %s: %s", b, last)
		}
	}
}

// snapshot returns size, mode and change time of every file below dir, except below dir/work.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		if strings.HasPrefix(rel, "work/") {
			return nil
		}
		out[rel] = fmt.Sprint(st.Size(), st.Mode(), st.Sys().(*syscall.Stat_t).Ctim)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func sameMap(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return true
}

func checkSSH(t *testing.T, w *world, project string) {
	aivm := filepath.Join(bin, "aivm")
	if r := w.aivm(project, "ssh", ".", "--", "sh", "-c", "pwd; echo oops >&2; exit 42"); r.code != 42 || r.stdout != project+"\n" || r.stderr != "oops\n" {
		t.Errorf("%+v", r)
	}
	// In a subfolder of an attached folder; the arguments must arrive unchanged.
	sub := filepath.Join(project, "d")
	if r := w.aivm(sub, "ssh", ".", "--", "printf", "%s|", "a b", "$HOME", "x'y", "--", "-n"); r.stdout != `a b|$HOME|x'y|--|-n|` || r.code != 0 {
		t.Errorf("%+v", r)
	}
	blob := make([]byte, 1<<20)
	_, _ = rand.Read(blob)
	if r := w.run(project, blob, nil, aivm, "ssh", ".", "--", "cat"); r.code != 0 || !bytes.Equal([]byte(r.stdout), blob) {
		t.Errorf("a megabyte through cat: exit %d, %d bytes back\n%s", r.code, len(r.stdout), r.stderr)
	}
	if r := w.aivm(project, "ssh", ".", "--", "no-such-program"); r.code != 127 {
		t.Errorf("a missing program: %+v", r)
	}
	if r := w.aivm(project, "ssh", ".", "--", "sh", "-c", "kill -9 $$"); r.code != 137 {
		t.Errorf("a killed command: %+v", r)
	}
	if r := w.run(project, []byte("echo in-$(pwd)\nexit 7\n"), nil, aivm, "ssh", "."); r.code != 7 || !strings.Contains(r.stdout, "in-"+project) {
		t.Errorf("a shell without a terminal: %+v", r)
	}
	checkTerminal(t, w, project)
}

// checkTerminal runs commands on a pseudo terminal (script(1)), also with a terminal that the guest
// does not know.
func checkTerminal(t *testing.T, w *world, project string) {
	onTerminal := func(term, line string) result {
		return w.run(project, nil, []string{"TERM=" + term}, "script", "-qec", filepath.Join(bin, "aivm")+" ssh "+line, "/dev/null")
	}
	if r := onTerminal("xterm", ". -- sh -c 'tty; test -t 2 && pwd; exit 7'"); r.code != 7 || !strings.Contains(r.stdout, "/dev/pts/") || !strings.Contains(r.stdout, project) || strings.Contains(r.stdout, "onnection") {
		t.Errorf("a command on a terminal: %+v", r)
	}
	if r := onTerminal("xterm", ". -T -- tty"); r.code != 1 || !strings.Contains(r.stdout, "not a tty") {
		t.Errorf("-T: %+v", r)
	}
	if r := w.aivm(project, "ssh", "-tt", ".", "--", "tty"); r.code != 0 || !strings.HasPrefix(r.stdout, "/dev/pts/") {
		t.Errorf("-tt: %+v", r)
	}
	// The entry of a terminal that only this machine knows is installed in the guest. No other is.
	if out, err := exec.Command("sh", "-c", `infocmp -x xterm-256color | sed 's/^xterm-256color|[^,]*,/aivm-e2e|a new terminal,/' | HOME="$1" tic -x -o "$1/.terminfo" -`, "sh", w.home).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if r := onTerminal("aivm-e2e", ". -- sh -c 'clear && echo TERM is $TERM; ls ~/.terminfo/a'"); r.code != 0 || !strings.Contains(r.stdout, "TERM is aivm-e2e") {
		t.Errorf("a terminal that the guest does not know: %+v", r)
	}
	if r := onTerminal("aivm-e2e-2", ". -- sh -c 'clear && echo TERM is $TERM'"); r.code != 0 || !strings.Contains(r.stdout, "TERM is xterm-256color") || !strings.Contains(r.stdout, "does not know the terminal aivm-e2e-2") {
		t.Errorf("a terminal that no machine knows: %+v", r)
	}
}

func checkClients(t *testing.T, w *world, vm, project string) {
	conf := filepath.Join(w.home, ".ssh/config")
	src := filepath.Join(w.home, "blob")
	blob := make([]byte, 300<<10)
	_, _ = rand.Read(blob)
	if err := os.WriteFile(src, blob, 0o600); err != nil {
		t.Fatal(err)
	}
	same := func(how, path string) {
		if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, blob) {
			t.Errorf("%s: %v, %d bytes", how, err, len(b))
		}
	}
	for _, c := range [][]string{
		{"scp", "-q", "-F", conf, src, vm + ":blob"},
		{"scp", "-q", "-F", conf, vm + ":blob", src + ".scp"},
		{"rsync", "-e", "ssh -F " + conf, src, vm + ":blob2"},
		{"rsync", "-e", "ssh -F " + conf, vm + ":blob2", src + ".rsync"},
	} {
		if r := w.run("", nil, nil, c...); r.code != 0 {
			t.Errorf("%v: %+v", c, r)
		}
	}
	same("scp", src+".scp")
	same("rsync", src+".rsync")
	w.guest(vm, "git init -q --bare bare.git")
	repo := filepath.Join(w.home, "repo")
	git := func(args ...string) {
		if r := w.run("", nil, []string{"GIT_SSH_COMMAND=ssh -F " + conf}, append([]string{"git"}, args...)...); r.code != 0 {
			t.Errorf("git %v: %+v", args, r)
		}
	}
	git("init", "-q", repo)
	git("-C", repo, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "x")
	git("-C", repo, "push", "-q", vm+":bare.git", "HEAD:refs/heads/main")
	git("clone", "-q", vm+":bare.git", repo+"2")
	if err := os.RemoveAll(repo + "2"); err != nil { // its configuration names the VM
		t.Fatal(err)
	}
}
