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

// An older program, and what it could do.
type older struct {
	name, commit string
	snapshots    bool
	// forward are the actions this aivm may plan for a VM the older one left,
	// beyond those the older one would do itself: what it did not know of.
	forward *regexp.Regexp
	// start is what stays to be done when all before the start was.
	start *regexp.Regexp
	// unknown is what status cannot know of it.
	unknown string
}

// first is the oldest commit in which all of `aivm code` worked: without
// firewall, hooks, snapshots, and a list of folders for reboots.
const first = "a201b70f6cf71b08e1d4459693f72e1f1c471fe0"

var olds = []older{
	// Of what was made for the VM nothing; of the machine the copy of the program
	// that libvirt's hooks run is another, the pool may be open to
	// others, and the network may answer names of /etc/hosts.
	{"the commit before", "HEAD~1", true, regexp.MustCompile(`^(host\..*|pool\.close|network\.hosts:.*)$`), regexp.MustCompile(`^domain\.start$`), ""},
	// It recorded folders of a VM that is off and bound them at the next start.
	{"the first one", first, false, regexp.MustCompile(`^(host\..*|firewall\.rules:.*|network\.hosts:.*|share\.export|pool\.close)$`), regexp.MustCompile(`^(domain\.start|share\.bind:p[12]-.*)$`), "executed"},
}

// never are actions that would make anew what is there.
var never = regexp.MustCompile(`^(vm\.state|key\..*|ssh\..*|image\..*|network\.(define|reserve).*|pool\.ensure|disk\..*|domain\.define.*)$`)

// checkout unpacks an older commit; ok is false where the history is not here.
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

// TestUpgrade: an older aivm makes a VM, attaches folders and takes snapshots;
// this one goes on with all of it and makes nothing anew.
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
				t.Logf("the history of this checkout does not go back to %s (a shallow clone): what it wrote is covered by TestFixture alone", old.commit)
				return
			}
			t.Logf("written by %s", hash)
			was := build(t, dir)
			w := newWorld(t, n)
			w.leave(was, old)
			if *save && old.commit == first {
				w.keep(hash)
			}
			w.goOn(now, was, old)
		})
	}
}

// leave is what an older aivm leaves behind: a VM that is off and has folders.
func (w *world) leave(was programs, old older) {
	w.t.Helper()
	// Killed when the VM is recorded: the stump on its disk would never answer.
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

// listed is what both programs' listings have to agree on.
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

// goOn is this aivm with what another left.
func (w *world) goOn(now, was programs, old older) {
	t := w.t
	t.Helper()
	dirs := []string{filepath.Join(w.home, ".config"), filepath.Join(w.home, ".local"), filepath.Join(w.home, ".ssh")}
	before, domain := files(t, dirs...), virsh("dumpxml", "--inactive", w.vm)
	if domain == "" {
		t.Fatal("the older program defined no VM")
	}

	// Looking changes nothing and sees what the older one sees.
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
	theirs := []string{"domain.start"}
	if was.aivm != "" {
		theirs = w.planned(was.aivm, "code", "p1", "--yes")
	}
	for _, id := range plan {
		if never.MatchString(id) || !slices.Contains(theirs, id) && !old.forward.MatchString(id) && !old.start.MatchString(id) {
			t.Errorf("this aivm plans %s; the older one: %v", id, theirs)
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
		t.Errorf("looking changed files: %v", difference(before, after))
	}
	if virsh("dumpxml", "--inactive", w.vm) != domain {
		t.Error("looking changed the definition")
	}

	// All that comes before the start is brought forward, and stays so.
	w.killedAt("domain.start:before", now.faulty, "vm", "up", w.vm, "--yes")
	// Asked of the program that did it, which is the one behind the hooks now.
	left := w.planned(now.faulty, "vm", "up", w.vm, "--yes")
	if !slices.Contains(left, "domain.start") || slices.ContainsFunc(left, func(id string) bool { return !old.start.MatchString(id) }) {
		t.Errorf("brought forward, and still planned: %v", left)
	}
	after := files(t, w.state)
	for p, was := range before {
		if strings.HasPrefix(p, filepath.Join(w.state, w.vm)+"/") && after[p] != was {
			t.Errorf("%s was written anew", p)
		}
	}

	// It adds to what is recorded, and takes away, and loses nothing.
	lines := strings.Split(strings.TrimSpace(read(t, w.store)), "\n")
	w.must(now.aivm, "attach", "p3", "--yes")
	text := read(t, w.store)
	at := 0
	for _, l := range lines {
		i := strings.Index(text[at:], l)
		if i < 0 {
			t.Fatalf("the store lost %q:\n%s", l, text)
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
	// Back to the older one: it reads what this one wrote.
	if was.aivm == "" {
		t.Logf("without the older program")
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
		t.Errorf("the store afterwards:\n%s", s)
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
	// Locks are taken by looking for what is to be done.
	return slices.DeleteFunc(out, func(p string) bool { return strings.HasSuffix(p, ".lock") })
}
