package upgrade

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// An older program, and its abilities.
type older struct {
	name, commit string
	snapshots    bool
	// forward matches the actions that this aivm may plan for a VM of the older one in addition to
	// the older one's own: for what the older one did not have.
	forward *regexp.Regexp
	// start matches the actions that remain after everything before the start was done.
	start *regexp.Regexp
	// unknown is the check that status cannot know for such a VM.
	unknown string
}

// first is the oldest commit with a working `aivm code`. It has no firewall, no hooks, no
// snapshots, and no list of folders for reboots.
const first = "a201b70f6cf71b08e1d4459693f72e1f1c471fe0"

var olds = []older{
	// Nothing of the VM is planned. On the host the copy of the program that libvirt's hooks run
	// differs, the pool may be open to others, and the network may resolve names of /etc/hosts.
	{"the commit before", "HEAD~1", true, regexp.MustCompile(`^(host\..*|pool\.close|network\.hosts:.*)$`), regexp.MustCompile(`^(domain\.start|guest\.mount)$`), ""},
	// It recorded folders of a VM that is off and mounted them at the next start. Its ssh entry lacks options.
	{"the first one", first, false, regexp.MustCompile(`^(host\..*|firewall\.rules:.*|network\.hosts:.*|share\.export|pool\.close)$`), regexp.MustCompile(`^(domain\.start|share\.bind:p[12]-.*|ssh\.config:.*|guest\.mount)$`), "executed"},
}

// never matches actions that would recreate what exists.
var never = regexp.MustCompile(`^(vm\.state|key\..*|ssh\.(include|key|remove|legacy).*|image\..*|network\.(define|reserve).*|pool\.ensure|disk\..*|domain\.define.*)$`)

// checkout unpacks an older commit; ok is false if the checkout lacks that history.
func checkout(t *testing.T, commit string) (dir, hash string, ok bool) {
	t.Helper()
	git := func(args ...string) ([]byte, error) {
		// The tests run as root in a checkout that may be another user's.
		return exec.Command("git", append([]string{"-C", "../..", "-c", "safe.directory=*"}, args...)...).Output()
	}
	out, err := git("rev-parse", "--verify", "--quiet", commit+"^{commit}")
	if err != nil {
		return "", "", false
	}
	hash = strings.TrimSpace(string(out))
	dir = t.TempDir()
	tar, err := git("archive", hash)
	if err != nil {
		t.Fatalf("git archive %s: %v", hash, err)
	}
	c := exec.Command("tar", "-x", "-C", dir)
	c.Stdin = strings.NewReader(string(tar))
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir, hash, true
}

// TestUpgrade has an older aivm create a VM, attach folders and take snapshots, and checks that
// this one works with all of them and recreates nothing.
func TestUpgrade(t *testing.T) {
	now := build(t, "../..")
	for n, old := range olds {
		// The first one's files are those of TestFixture.
		if old.commit == first && !longRun && !*save {
			continue
		}
		t.Run(old.name, func(t *testing.T) {
			dir, hash, ok := checkout(t, old.commit)
			if !ok {
				t.Logf("the history of this checkout does not go back to %s (a shallow clone): only TestFixture covers its files", old.commit)
				return
			}
			t.Logf("written by %s", hash)
			was := build(t, dir)
			w := newWorld(t, n)
			w.createOld(was, old)
			if *save && old.commit == first {
				w.saveFixture(hash)
			}
			w.checkNew(now, was, old)
		})
	}
}

// createOld has an older aivm create a VM that is off and has folders.
func (w *world) createOld(was programs, old older) {
	w.t.Helper()
	// Killed after the VM is recorded: with a placeholder as its disk the VM would never answer.
	w.killedAt("store.vm:after", was.faulty, "vm", "create", w.vm, "--image", "./tiny.img", "--yes")
	w.must(was.aivm, "vm", "down", w.vm, "--force")
	w.must(was.aivm, "attach", "p1", "--yes")
	w.must(was.aivm, "attach", "p2", "--access", "ro", "--guest-dst", "/srv/p2", "--yes")
	if old.snapshots {
		w.must(was.aivm, "vm", "snapshot", "base", "--vm", w.vm, "--yes")
		w.must(was.aivm, "vm", "snapshot", "second", "--vm", w.vm, "--yes")
	}
	for _, p := range []string{w.store, filepath.Join(w.state, w.vm, "instance.json"), filepath.Join(w.home, ".config/aivm/ssh", w.vm+".conf")} {
		if _, err := os.Stat(p); err != nil {
			w.t.Fatal(err)
		}
	}
}

// listed is what the listings of both programs must agree on.
type listed struct {
	ActiveVM string `json:"active_vm"`
	VMs      []struct {
		Name, State, Alias, Address, Network string
		CPUs                                 int `json:"cpus"`
		RAM                                  int `json:"ram_mb"`
		Disk                                 int `json:"disk_gb"`
	}
	Networks []struct{ Name, Bridge, Subnet string }
	Folders  []struct {
		HostPath string `json:"host_path"`
		VM       string
		Mode     string
		Access   string
		GuestDst string `json:"guest_dst"`
	}
}

func (w *world) list(aivm string) string {
	w.t.Helper()
	var l listed
	if err := json.Unmarshal([]byte(w.must(aivm, "list", "--json").stdout), &l); err != nil {
		w.t.Fatal(err)
	}
	if len(l.VMs) != 1 || l.VMs[0].Name != w.vm || len(l.Folders) < 2 {
		w.t.Errorf("%s lists %+v", aivm, l)
	}
	b, err := json.MarshalIndent(l, "", " ")
	if err != nil {
		w.t.Fatal(err)
	}
	return string(b)
}

// checkNew checks that this aivm works with the files of another.
func (w *world) checkNew(now, was programs, old older) {
	t := w.t
	t.Helper()
	dirs := []string{filepath.Join(w.home, ".config"), filepath.Join(w.home, ".local"), filepath.Join(w.home, ".ssh")}
	before, domain := files(t, dirs...), virsh("dumpxml", "--inactive", w.vm)
	if domain == "" {
		t.Fatal("the older program defined no VM")
	}

	// Reading changes nothing, and gives the same as with the older one.
	b := w.list(now.aivm)
	if was.aivm != "" {
		if a := w.list(was.aivm); a != b {
			t.Errorf("the older one lists\n%s\nthis one\n%s", a, b)
		}
	}
	var st struct {
		Checks []struct{ ID, State, Detail string }
	}
	if err := json.Unmarshal([]byte(w.must(now.aivm, "status", "--vm", w.vm, "--json").stdout), &st); err != nil {
		t.Fatal(err)
	}
	for _, c := range st.Checks {
		if c.State == "unknown" && c.ID != old.unknown {
			t.Errorf("status does not know %s: %s", c.ID, c.Detail)
		}
	}
	plan := w.planned(now.aivm, "code", "p1", "--yes")
	t.Logf("planned: %v", plan)
	oldPlan := []string{"domain.start"}
	if was.aivm != "" {
		oldPlan = w.planned(was.aivm, "code", "p1", "--yes")
	}
	for _, id := range plan {
		if never.MatchString(id) || !slices.Contains(oldPlan, id) && !old.forward.MatchString(id) && !old.start.MatchString(id) {
			t.Errorf("this aivm plans %s; the older one: %v", id, oldPlan)
		}
	}
	if !slices.Contains(plan, "domain.start") {
		t.Errorf("the VM is not started: %v", plan)
	}
	if old.snapshots {
		if r := w.must(now.aivm, "vm", "snapshots", w.vm); !strings.Contains(r.stdout, "base") || !strings.Contains(r.stdout, "second") {
			t.Errorf("%+v", r)
		}
	}
	if after := files(t, dirs...); !same(before, after) {
		t.Errorf("reading changed files: %v", difference(before, after))
	}
	if virsh("dumpxml", "--inactive", w.vm) != domain {
		t.Error("reading changed the definition")
	}

	// Everything before the start is upgraded, and stays so.
	w.killedAt("domain.start:before", now.faulty, "vm", "up", w.vm, "--yes")
	// Ask the program that did it, since libvirt's hooks run that one now.
	stillPlanned := w.planned(now.faulty, "vm", "up", w.vm, "--yes")
	if !slices.Contains(stillPlanned, "domain.start") || slices.ContainsFunc(stillPlanned, func(id string) bool { return !old.start.MatchString(id) }) {
		t.Errorf("upgraded, but still planned: %v", stillPlanned)
	}
	after := files(t, w.state)
	for p, was := range before {
		if strings.HasPrefix(p, filepath.Join(w.state, w.vm)+"/") && after[p] != was {
			t.Errorf("%s was written again", p)
		}
	}

	// It adds records and removes them, and loses nothing.
	lines := strings.Split(strings.TrimSpace(read(t, w.store)), "\n")
	w.must(now.aivm, "attach", "p3", "--yes")
	text := read(t, w.store)
	at := 0
	for _, l := range lines {
		i := strings.Index(text[at:], l)
		if i < 0 {
			t.Fatalf("the config lost %q:\n%s", l, text)
		}
		at += i + len(l)
	}
	if !strings.Contains(text, filepath.Join(w.home, "p3")) {
		t.Errorf("not recorded:\n%s", text)
	}
	w.must(now.aivm, "detach", "p2")
	if old.snapshots {
		w.must(now.aivm, "vm", "rollback", "base", "--vm", w.vm, "--yes")
	}
	// The older one can read what this one wrote.
	if was.aivm == "" {
		t.Logf("skipped: the older program is not available")
	} else if r := w.must(was.aivm, "list"); !strings.Contains(r.stdout, w.vm) || !strings.Contains(r.stdout, filepath.Join(w.home, "p3")) {
		t.Errorf("the older one lists %s", r.stdout)
	}

	w.must(now.aivm, "vm", "delete", w.vm, "--yes")
	if virsh("dominfo", w.vm) != "" {
		t.Error("the VM is still defined")
	}
	for _, p := range []string{filepath.Join(w.base, "0-"+w.vm+".qcow2"), filepath.Join(w.base, "0-"+w.vm+".seed"), filepath.Join(w.state, w.vm), filepath.Join(w.home, ".config/aivm/ssh", w.vm+".conf"), "/var/lib/aivm/export/0-" + w.vm} {
		if _, err := os.Lstat(p); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", p, err)
		}
	}
	if s := read(t, w.store); strings.Contains(s, "[[vms]]") || strings.Contains(s, "[[attachments]]") || !strings.Contains(s, "# mine, and it stays") || !strings.Contains(s, "ram_mb = 512 # enough") {
		t.Errorf("the config afterwards:\n%s", s)
	}
	if s := read(t, w.ssh); s != "# mine\nHost other\n  User me\n" {
		t.Errorf("ssh's configuration afterwards: %q", s)
	}
}

func same(a, b map[string]string) bool { return len(difference(a, b)) == 0 }

func difference(a, b map[string]string) []string {
	var out []string
	for p := range a {
		if a[p] != b[p] {
			out = append(out, p)
		}
	}
	for p := range b {
		if _, ok := a[p]; !ok {
			out = append(out, "new "+p)
		}
	}
	slices.Sort(out)
	// Reading commands take locks.
	return slices.DeleteFunc(out, func(p string) bool { return strings.HasSuffix(p, ".lock") })
}
