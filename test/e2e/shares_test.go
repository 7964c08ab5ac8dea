package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// all tests shared folders: many attached concurrently, nested, linked and read-only ones; detach in
// every state; runs that are killed; and in `make test-long` mounts that the guest restores after its
// reboot.
func (s *shares) all(t *testing.T) {
	step := s.w.steps()
	step("the first folder", func(t *testing.T) {
		first := s.folder("p x")
		s.w.must(first, "code", ".", "--yes")
		s.visible(t, first)
	})
	step("many at once", s.atOnce)
	step("special folders", s.special)
	step("code-server in a folder", s.serverInFolder)
	step("detach", s.detach)
	step("killed at every action", s.killed)
	if longRun {
		step("guest reboot", s.guestReboot)
		step("virtiofsd dies", s.daemonDies)
		s.w.must("", "vm", "restart", s.vm, "--force", "--yes")
	}
}

type shares struct {
	w       *world
	vm, top string
	made    map[string]string // folder -> content of its file f
}

// folder creates a host folder with one file, f.
func (s *shares) folder(name string) string {
	s.w.t.Helper()
	p := filepath.Join(s.top, name)
	if s.made == nil {
		s.made = map[string]string{}
	}
	s.made[p] = name + "\n"
	write(s.w.t, filepath.Join(p, "f"), s.made[p], 0o640)
	return p
}

// q quotes a string for the shell.
func q(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// visible checks that the guest reads the file f of each of these folders.
func (s *shares) visible(t *testing.T, folders ...string) {
	t.Helper()
	line, want := "", ""
	for _, f := range folders {
		line += "cat " + q(f+"/f") + "; "
		want += s.made[f]
	}
	if got := s.w.guest(s.vm, line+"true"); got != strings.TrimSuffix(want, "\n") {
		t.Errorf("the guest reads %q, not %q", got, want)
	}
}

type listedFolder struct {
	HostPath string `json:"host_path"`
	State    string
	Access   string
}

func (s *shares) states(t *testing.T) map[string]string {
	t.Helper()
	var l struct{ Folders []listedFolder }
	if err := json.Unmarshal([]byte(s.w.must("", "list", "--json").stdout), &l); err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, f := range l.Folders {
		out[f.HostPath] += f.State
	}
	return out
}

// last returns the last of the folders that were attached at once, below s.top.
func (s *shares) last() string { return fmt.Sprintf("many/%d", foldersAtOnce-1) }

func (s *shares) atOnce(t *testing.T) {
	var wg sync.WaitGroup
	var dirs []string
	for i := range foldersAtOnce {
		dirs = append(dirs, s.folder(fmt.Sprintf("many/%d", i)))
	}
	results := make([]result, len(dirs))
	for i, d := range dirs {
		wg.Go(func() { results[i] = s.w.aivm(d, "attach", ".", "--yes") })
	}
	wg.Wait()
	for i, r := range results {
		if r.code != 0 || !strings.Contains(r.stdout, "Mounted in running VM at "+dirs[i]) {
			t.Errorf("%s: %+v", dirs[i], r)
		}
	}
	s.visible(t, dirs...)
	states := s.states(t)
	for _, d := range dirs {
		if states[d] != "ok" {
			t.Errorf("%s is %q", d, states[d])
		}
	}
	// One virtiofs device, and in it only the attached folders.
	if n := strings.Count(virsh(t, "dumpxml", s.vm), "<filesystem"); n != 1 {
		t.Errorf("%d devices", n)
	}
	// Where a test unmounted a folder itself, an empty directory stays until the VM is deleted.
	if got := s.w.guest(s.vm, "sudo -n ls /run/aivm/share | grep -v ^sub-"); strings.Count(got, "\n")+1 != len(states) {
		t.Errorf("guest root sees\n%s\n%d folders are attached: %v", got, len(states), states)
	}
	if r := s.w.ssh(nil, s.vm, "sudo -n touch /run/aivm/share/x"); r.code == 0 {
		t.Error("guest root wrote into the export root")
	}
}

func (s *shares) special(t *testing.T) {
	w := s.w
	outer, inner := s.folder("nest"), s.folder("nest/in/ner")
	w.must(inner, "attach", ".", "--yes")
	w.must(outer, "attach", ".", "--yes")
	target := s.folder("real")
	link := filepath.Join(s.top, "li nk")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	w.must("", "attach", link, "--yes")
	s.made[link] = s.made[target]
	s.visible(t, outer, inner, target, link)
	delete(s.made, link)
	ro := s.folder("ro")
	w.must(ro, "attach", ".", "--access", "ro", "--yes")
	if r := w.ssh(nil, s.vm, "sudo -n sh -c 'mount -o remount,rw "+q(ro)+"; touch "+q(ro+"/x")+"'"); r.code == 0 {
		t.Error("guest root wrote into a read-only folder")
	}
	// Another access mode is refused, with the commands that change it.
	if r := w.aivm(ro, "code", ".", "--access", "rw"); r.code != 2 || !strings.Contains(r.stderr, "aivm detach "+ro+" --vm "+s.vm) || !strings.Contains(r.stderr, "--access rw") {
		t.Errorf("%+v", r)
	}
	// A guest path that is not empty.
	full := s.folder("full")
	w.guest(s.vm, "sudo -n mkdir -p "+q(full)+" && echo mine | sudo -n tee "+q(full+"/mine")+" >/dev/null")
	if r := w.aivm(full, "attach", ".", "--yes"); r.code != 2 || !strings.Contains(r.stderr, "not empty") {
		t.Errorf("%+v", r)
	}
	if got := w.guest(s.vm, "cat "+q(full+"/mine")); got != "mine" || s.states(t)[full] != "" {
		t.Errorf("%q, %v", got, s.states(t))
	}
	// A folder that was deleted and created again.
	again := s.folder("many/0")
	if err := os.RemoveAll(again); err != nil {
		t.Fatal(err)
	}
	if s.states(t)[again] != "missing" {
		t.Errorf("%v", s.states(t))
	}
	s.made[again] = "made again\n"
	write(t, filepath.Join(again, "f"), s.made[again], 0o640)
	w.must(again, "ssh", ".", "--", "true")
	s.visible(t, again)
}

func (s *shares) detach(t *testing.T) {
	w := s.w
	busy, gone, outer := filepath.Join(s.top, "many/1"), filepath.Join(s.top, "many/2"), filepath.Join(s.top, "nest")
	w.guest(s.vm, "cd "+q(busy)+" && (exec sleep 600 <f >/dev/null 2>&1 &)")
	r := w.aivm("", "detach", busy)
	if r.code != 2 || !regexp.MustCompile(`sleep \(pid \d+\)`).MatchString(r.stderr) || !strings.Contains(r.stderr, "--force") {
		t.Errorf("%+v", r)
	}
	s.visible(t, busy)
	if s.states(t)[busy] != "ok" {
		t.Errorf("%v", s.states(t))
	}
	if r := w.must("", "detach", busy, "--force"); !strings.Contains(r.stdout, "until the VM stops") {
		t.Errorf("%+v", r)
	}
	if r := w.ssh(nil, s.vm, "test -e "+q(busy+"/f")); r.code == 0 || s.states(t)[busy] != "detaching" {
		t.Errorf("still there, or %v", s.states(t))
	}
	if err := os.RemoveAll(gone); err != nil {
		t.Fatal(err)
	}
	delete(s.made, gone)
	w.must("", "detach", gone)
	if r := w.aivm("", "detach", filepath.Join(outer, "in")); r.code != 2 || !strings.Contains(r.stderr, "aivm detach "+outer) {
		t.Errorf("%+v", r)
	}
	// An attached folder inside the detached one stays attached.
	w.must("", "detach", outer)
	inner := filepath.Join(outer, "in/ner")
	s.visible(t, inner)
	if r := w.ssh(nil, s.vm, "test -e "+q(outer+"/f")); r.code == 0 {
		t.Error("the guest still sees a detached folder")
	}
	if r := w.must("", "detach", gone); !strings.Contains(r.stdout, "Nothing to do") {
		t.Errorf("%+v", r)
	}
	link := filepath.Join(s.top, "li nk")
	w.must("", "detach", link)
	if r := w.ssh(nil, s.vm, "test -L "+q(link)); r.code == 0 {
		t.Error("the link still exists in the guest")
	}
	if m, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(m), "/real ") || strings.Contains(string(m), "/nest ") {
		t.Error("a detached folder is still mounted on the host")
	}
}

// killed kills attach and detach at each fault point; the last run finishes.
func (s *shares) killed(t *testing.T) {
	w := s.w
	f := s.folder("killed")
	n := walk(t, w, f, nil, "attach", ".", "--yes")
	s.visible(t, f)
	if s.states(t)[f] != "ok" {
		t.Errorf("%v", s.states(t))
	}
	m := walk(t, w, f, nil, "detach", ".")
	t.Logf("attach killed at %d points, detach at %d", len(n), len(m))
	if len(n) < 3*killsOfAction || len(m) < 4*killsOfAction {
		t.Errorf("killed at only %v and %v", n, m)
	}
	if st := s.states(t)[f]; st != "" {
		t.Errorf("after detach list shows the folder as %q", st)
	}
	if b, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(b), "/killed ") {
		t.Error("the detached folder is still mounted")
	}
}

func (s *shares) guestReboot(t *testing.T) {
	w := s.w
	// A detach that was killed after the guest unmounted the folder leaves it in the guest's list of
	// folders until the next command.
	w.must(filepath.Join(s.top, "p x"), "ssh", ".", "--", "true")
	boot := w.guest(s.vm, "cat /proc/sys/kernel/random/boot_id")
	w.ssh(nil, s.vm, "sudo -n systemctl reboot")
	s.await(t, func() bool {
		r := w.ssh(nil, "-o", "ConnectTimeout=3", s.vm, "cat /proc/sys/kernel/random/boot_id")
		return r.code == 0 && strings.TrimSpace(r.stdout) != boot
	})
	// No aivm command ran since the reboot: the guest mounted the folders itself.
	s.visible(t, filepath.Join(s.top, "p x"), filepath.Join(s.top, s.last()), filepath.Join(s.top, "nest/in/ner"), filepath.Join(s.top, "ro"))
	if r := w.ssh(nil, s.vm, "test -e "+q(filepath.Join(s.top, "many/1/f"))); r.code == 0 {
		t.Error("the guest mounted a folder again that is being detached")
	}
	r := w.must(filepath.Join(s.top, "p x"), "code", ".", "--dry-run")
	if !strings.Contains(r.stdout, "Nothing would change.") {
		t.Errorf("%+v", r)
	}
}

func (s *shares) await(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(6 * time.Minute); !ok(); time.Sleep(time.Second) {
		if time.Now().After(end) {
			t.Fatal("the guest is not reachable after 6 minutes")
		}
	}
}

// hostReboot simulates a reboot of the host: the VM is off and all mounts are gone. start starts the VM
// with virsh, so libvirt's hook must mount the folders.
func (s *shares) hostReboot(t *testing.T, start func(*testing.T)) {
	w := s.w
	if len(s.made) == 0 { // only the group "snapshots" runs
		start(t)
		w.must("", "vm", "up", s.vm)
		return
	}
	w.must("", "vm", "down", s.vm, "--yes") // it is off; this completes detaching
	if st := s.states(t)[filepath.Join(s.top, "many/1")]; st != "" {
		t.Errorf("a folder that was being detached is %q after the VM's stop", st)
	}
	exp := "/var/lib/aivm/export/0-" + s.vm
	unmountBelow(t, exp)
	runHost(t, "umount", exp)
	missing, linked := filepath.Join(s.top, "many/3"), filepath.Join(s.top, "many/4")
	for _, p := range []string{missing, linked} {
		if err := os.Rename(p, p+".was"); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc", linked); err != nil {
		t.Fatal(err)
	}
	// Install the aivm under test for the hook, because a concurrent run may have installed another.
	runHost(t, "install", "-m", "0755", filepath.Join(bin, "aivm"), "/usr/local/libexec/aivm/aivm")
	start(t)
	if b, _ := os.ReadFile("/proc/self/mountinfo"); !strings.Contains(string(b), exp+" ") || strings.Contains(string(b), "/f/many/4 ") {
		t.Fatalf("libvirt's hook did not mount the folders:\n%s", b)
	}
	s.await(t, func() bool { return w.ssh(nil, "-o", "ConnectTimeout=3", s.vm, "true").code == 0 })
	s.visible(t, filepath.Join(s.top, "p x"), filepath.Join(s.top, s.last()), filepath.Join(s.top, "nest/in/ner"))
	if r := w.ssh(nil, s.vm, "test -e "+q(linked+"/passwd")); r.code == 0 {
		t.Error("the guest sees the host's /etc through a link")
	}
	r := w.must("", "vm", "up", s.vm)
	for _, want := range []string{"Skipping saved attachment " + missing + ": host path is missing", "Skipping saved attachment " + linked + ": a part of"} {
		if !strings.Contains(r.stderr, want) {
			t.Errorf("no %q in %s", want, r.stderr)
		}
	}
	// After the link is replaced by the folder, the folder is mounted only when it is attached again.
	if err := os.Remove(linked); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{missing, linked} {
		if err := os.Rename(p+".was", p); err != nil {
			t.Fatal(err)
		}
	}
	r = w.must("", "vm", "up", s.vm)
	if !strings.Contains(r.stderr, "aivm attach "+linked+" --vm "+s.vm) {
		t.Errorf("%+v", r)
	}
	s.visible(t, missing)
	w.must("", "attach", linked, "--yes")
	s.visible(t, linked)
	// All mounts on host and guest are lost while the VM runs: one command restores them without a
	// question.
	all := w.guest(s.vm, `grep ' - virtiofs ' /proc/self/mountinfo | cut -d' ' -f5 | grep -vx /run/aivm/share | sort -r | while read -r m; do sudo -n umount "$(printf %b "$m")" || exit 1; done; echo 2 | sudo -n tee /proc/sys/vm/drop_caches`)
	if all != "2" {
		t.Errorf("%q", all)
	}
	time.Sleep(time.Second)
	unmountBelow(t, exp)
	w.must(filepath.Join(s.top, "p x"), "ssh", ".", "--", "true")
	s.visible(t, filepath.Join(s.top, "p x"), filepath.Join(s.top, s.last()), filepath.Join(s.top, "nest/in/ner"), filepath.Join(s.top, "ro"))
}

// unmountBelow unmounts every mount below a directory, the innermost ones first.
func unmountBelow(t *testing.T, dir string) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	mounts := regexp.MustCompile(regexp.QuoteMeta(dir)+`/\S+`).FindAllString(string(b), -1)
	for _, m := range slices.Backward(mounts) {
		runHost(t, "umount", m)
	}
}

func (s *shares) daemonDies(t *testing.T) {
	w := s.w
	out, err := exec.Command("sh", "-c", `for p in /proc/[0-9]*; do tr '\0' '\n' <$p/cmdline 2>/dev/null | grep -q "/var/lib/aivm/export/0-`+s.vm+`\$" && tr '\0' ' ' <$p/cmdline | grep -q virtiofsd && echo ${p#/proc/}; done; true`).Output()
	if err != nil || len(strings.Fields(string(out))) == 0 {
		t.Fatalf("no virtiofsd: %v %q", err, out)
	}
	for _, pid := range strings.Fields(string(out)) {
		_ = exec.Command("kill", "-9", pid).Run()
	}
	r := w.aivm(filepath.Join(s.top, "p x"), "ssh", ".", "--", "true")
	if r.code != 255 || !strings.Contains(r.stderr, "virtiofsd") || !strings.Contains(r.stderr, "aivm vm restart "+s.vm) {
		t.Errorf("%+v", r)
	}
	w.must("", "detach", filepath.Join(s.top, "many/5"))
	if st := s.states(t)[filepath.Join(s.top, "many/5")]; st != "" {
		t.Errorf("after detach list shows the folder as %q", st)
	}
}

// unchanged tests that after vm delete the folders contain exactly what the test wrote, and that no
// mount, export directory or manifest remains.
func (s *shares) unchanged(t *testing.T) {
	for f, want := range s.made {
		b, err := os.ReadFile(filepath.Join(f, "f"))
		if err != nil || string(b) != want {
			t.Errorf("%s: %v %q", f, err, b)
		}
		st, err := os.Stat(filepath.Join(f, "f"))
		if err != nil || st.Mode().Perm() != 0o640 {
			t.Errorf("%s: %v", f, st)
		}
	}
	n := 0
	_ = filepath.WalkDir(s.top, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			n++
		}
		return nil
	})
	if n != len(s.made) {
		t.Errorf("%d files in the folders, %d were written", n, len(s.made))
	}
	for _, p := range []string{"/var/lib/aivm/export/0-" + s.vm, "/var/lib/aivm/manifest/vm-0-" + s.vm + ".json"} {
		if _, err := os.Lstat(p); err == nil {
			t.Errorf("leftover: %s", p)
		}
	}
	if b, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(b), "0-"+s.vm) {
		t.Error("a mount of the deleted VM still exists")
	}
}
