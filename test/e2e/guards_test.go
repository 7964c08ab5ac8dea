package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"aivm.dev/aivm/cloudinit"
)

// checkStaleNetwork removes a network with virsh. fw status and doctor must name its stale firewall,
// and fw apply must remove it.
func checkStaleNetwork(t *testing.T, w *world, network string) {
	manifest := "/var/lib/aivm/manifest/net-" + network + ".json"
	rules := func() bool {
		return strings.Contains(runHost(t, "nft", "list", "tables"), strings.ReplaceAll(network, "-", "_"))
	}
	if _, err := os.Stat(manifest); err != nil || !rules() {
		t.Fatalf("before the network is removed: manifest: %v, rules loaded: %v", err, rules())
	}
	virsh(t, "net-destroy", network)
	virsh(t, "net-undefine", network)
	if r := w.must("", "host", "fw", "status"); !strings.Contains(r.stdout, network+": left over") {
		t.Errorf("%+v", r)
	}
	if r := w.aivm("", "host", "doctor"); !strings.Contains(r.stdout, "stale firewall of network "+network) {
		t.Errorf("the doctor: %+v", r)
	}
	w.must("", "host", "fw", "apply")
	if _, err := os.Stat(manifest); !errors.Is(err, fs.ErrNotExist) || rules() {
		t.Errorf("after fw apply: manifest: %v, rules loaded: %v", err, rules())
	}
	if r := w.must("", "host", "fw", "status"); strings.Contains(r.stdout, "left over") {
		t.Errorf("%+v", r)
	}
}

// watchArguments reads the command line of every process each 200 ms while the test runs. The
// function it returns gives the last command line that contained a secret, or "".
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

// checkSecrets tests that only the user can read aivm's files, and that no private key or password
// is in aivm's output or in the arguments of a process.
func checkSecrets(t *testing.T, w *world, vm, project string, seen func() string) {
	for _, top := range []string{filepath.Join(w.home, ".local/state/aivm"), filepath.Join(w.home, ".config/aivm")} {
		_ = filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				t.Error(err)
				return nil
			}
			if st, err := d.Info(); err == nil && st.Mode().Perm()&0o077 != 0 && !strings.HasSuffix(p, ".pub") && p != filepath.Join(w.home, ".config/aivm") {
				t.Errorf("%s can be read by others: %v", p, st.Mode())
			}
			return nil
		})
	}
	secrets := []string{"hunter2-of-the-store", "PRIVATE KEY"}
	for _, f := range []string{"id_ed25519", vm + "/host_ed25519"} {
		for _, line := range strings.Split(read(t, filepath.Join(w.home, ".local/state/aivm", f)), "\n") {
			// Lines with these beginnings are the same in every such key.
			if len(line) > 60 && !strings.HasPrefix(line, "b3BlbnNzaC1rZXk") && !strings.HasPrefix(line, "QyNTUxOQ") {
				secrets = append(secrets, line)
			}
		}
	}
	if len(secrets) < 4 {
		t.Fatalf("found only %d secrets to search for", len(secrets))
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
		t.Errorf("the password is in the arguments of %s", at)
	}
	if strings.Contains(virsh(t, "dumpxml", "--security-info", vm), "hunter2") {
		t.Error("the password is in the definition")
	}
}

// checkCleanRefused runs the script of `vm prepare` in a VM with folders, as if the VM had taken the place
// of its copy: it ends before it deletes anything.
func checkCleanRefused(t *testing.T, w *world, vm string) {
	const facts = "cat /etc/machine-id /etc/hostname ~/.ssh/authorized_keys && sudo -n sha256sum /etc/ssh/ssh_host_ed25519_key && ls /var/lib/aivm"
	before := w.guest(vm, facts)
	r := w.ssh([]byte(cloudinit.CleanScript()), vm, "sudo -n sh -s")
	if r.code == 0 || !strings.Contains(r.stderr, "this VM has shared folders") {
		t.Errorf("%+v", r)
	}
	if now := w.guest(vm, facts); now != before {
		t.Errorf("the script changed\n%s\nto\n%s", before, now)
	}
}

func checkClock(t *testing.T, w *world, vm, project string) {
	// The guest read its clock between began and now; off is the least difference that is possible.
	off := func() float64 {
		began := time.Now()
		s, err := strconv.ParseFloat(w.guest(vm, "date +%s.%N"), 64)
		if err != nil {
			t.Fatal(err)
		}
		return max(s-float64(time.Now().UnixNano())/1e9, 0) + min(s-float64(began.UnixNano())/1e9, 0)
	}
	jumps := []string{"2019-03-01", "+3 days"}
	if longRun {
		jumps = append(jumps, "-1 hour")
	}
	for _, jump := range jumps {
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
		t.Errorf("code set a clock that was right: %s", r.stderr)
	}
}

// snapshots creates snapshots, kills virtiofsd, rolls back and deletes snapshots. While the VM is off,
// aivm is killed before and after each action. The network is destroyed before the VM is shut down, and
// virsh starts both.
func (s *secondVM) snapshots(t *testing.T) {
	w, vm, project := s.w, s.vm, s.project
	v := &firewalledVM{w: w, vm: vm}
	v.addHostServices(t)
	v.setNetwork(listedNetwork(t, w))
	w.guest(vm, "echo one >~/state; echo kept >~/kept; sync")
	facts, address := w.guest(vm, guestFacts), w.must("", "vm", "wait-ip", vm).stdout
	v.networkDestroyed(t, project)
	if r := w.aivm(project, "vm", "snapshot", "one"); r.code != 3 || !strings.Contains(r.stderr, "--yes") {
		t.Errorf("a snapshot of a running VM without --yes: %+v", r)
	}
	if r := w.must(project, "vm", "snapshot", "one", "--yes", "--stay-off"); !strings.Contains(r.stderr, "shared folder") {
		t.Errorf("vm snapshot does not name the folders it does not cover: %+v", r)
	}
	// Killed before and after each action with the VM off, then run to the end.
	faulty := filepath.Join(bin, "aivm-faulty")
	kill := func(point string, args ...string) {
		t.Helper()
		if r := w.run(project, nil, []string{"AIVM_KILL_AT=" + point}, append([]string{faulty}, args...)...); r.code != -1 {
			t.Errorf("not killed at %s: %+v", point, r)
		}
	}
	kill("snapshot.create:before", "vm", "snapshot", "two")
	kill("snapshot.create:after", "vm", "snapshot", "two")
	if r := w.aivm(project, "vm", "snapshot", "two"); r.code != 2 || !strings.Contains(r.stderr, "already") {
		t.Errorf("%+v", r)
	}
	s.shares.hostReboot(t, v.startByVirsh)
	if s.hostile != nil {
		s.hostile.heldUntilRestart(t)
	}
	v.checkReachable(t, true)
	if now := w.guest(vm, guestFacts); now != facts {
		t.Errorf("the second boot changed:\n%s\nto\n%s", facts, now)
	}
	w.guest(vm, "echo two >~/state; head -c 20000000 /dev/urandom >~/grown; sync")
	// virtiofsd dies: code fails with a hint, and the next start of the VM repairs it.
	write(t, filepath.Join(project, "after"), "x\n", 0o644)
	for _, p := range virtiofsds(vm) {
		_ = syscall.Kill(p, syscall.SIGKILL)
	}
	if r, _ := w.peak(project, 100*time.Second, "code", "."); r.code == 0 || r.took > 95*time.Second || !strings.Contains(r.stderr, "aivm vm restart "+vm+" --force") {
		t.Errorf("code without virtiofsd: exit %d after %s\n%s", r.code, r.took, r.stderr)
	}
	// --force, because a guest whose programs wait for virtiofsd does not power off.
	w.must(project, "vm", "down", "--force", "--yes")
	record := filepath.Join(w.home, ".local/state/aivm", vm, "browser.json")
	write(t, record, `{"schema":1,"host":"aivm-00112233445566778899.localhost","port":25000}`, 0o600)
	kill("snapshot.keep:after", "vm", "rollback", "one", "--yes")
	w.must(project, "vm", "rollback", "one", "--yes")
	if _, err := os.Stat(record); err == nil {
		t.Error("after a rollback, the editor's address is still recorded")
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
	kept := l.Snapshots[2].Name
	if !strings.HasPrefix(kept, "before-rollback-") {
		t.Errorf("the rollback kept the disk as %s", kept)
	}
	kill("snapshot.rollback:before", "vm", "rollback", kept, "--yes")
	kill("snapshot.rollback:after", "vm", "rollback", kept, "--yes")
	if r := w.must(project, "vm", "rollback", kept, "--yes"); !strings.Contains(r.stdout, "already") {
		t.Errorf("rollback after a kill at its end: %+v", r)
	}
	if longRun {
		w.must(project, "vm", "up")
		if got := w.guest(vm, "cat ~/state; stat -c %s ~/grown"); got != "two\n20000000" {
			t.Errorf("the snapshot that the rollback kept has %q", got)
		}
		w.must(project, "vm", "down")
	}
	kill("snapshot.delete:two:before", "vm", "snapshot-delete", "two", "--yes")
	kill("snapshot.delete:two:after", "vm", "snapshot-delete", "two", "--yes")
	if r := w.must(project, "vm", "snapshots"); strings.Contains(r.stdout, "- two ") || !strings.Contains(r.stdout, "- one ") {
		t.Errorf("%s", r.stdout)
	}
	w.must(project, "vm", "rollback", "one", "--yes")
	if r := w.aivm("", "vm", "status", vm); r.code != 0 || !strings.Contains(r.stdout, "aivm vm up "+vm) {
		t.Errorf("%+v", r)
	}
	virsh(t, "net-destroy", v.network) // code starts it again
	if r := w.must(project, "code", ".", "--snapshot"); !strings.Contains(r.stderr, "Snapshot before-code-") {
		t.Errorf("%+v", r)
	}
	if got := w.guest(vm, "cat ~/state; ls ~/grown 2>/dev/null; cat "+project+"/after"); got != "one\nx" {
		t.Errorf("after the rollback: %q", got)
	}
	if now := w.must("", "vm", "wait-ip", vm).stdout; now != address {
		t.Errorf("after a restart the address is %q, was %q", now, address)
	}
}

// virtiofsds returns the process IDs of a VM's virtiofsd.
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
