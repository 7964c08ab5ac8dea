package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// firstVM is a VM of root that many test cases share, because a boot takes one to two minutes with an
// emulated CPU.
type firstVM struct {
	w                *world
	vm, project, net string
	bridge           string
	made             bool // the VM exists
}

// TestFirstVM creates a VM by runs that are killed at every fault point, uses it with ssh, editors and
// programs, syncs settings, tests its firewall, and deletes it after virsh has removed its domain.
// To run one group only:
//
//	RUN=TestFirstVM/firewall scripts/test.sh e2e
func TestFirstVM(t *testing.T) {
	w := rootWorld(t)
	f := &firstVM{w: w, vm: "e2efirst", net: "e2e-net1", bridge: "vbr-e2e1"}
	write(t, filepath.Join(w.home, ".config/aivm/config.toml"), "# mine\n[defaults.vm]\nname = \""+f.vm+"\"\nram_mb = 2048 # enough\ncpus = 1\n"+
		// Its own network, because the test stops and destroys it.
		"[defaults.network]\nname = \""+f.net+"\"\nbridge = \""+f.bridge+"\"\nsubnet_cidr = \"10.94.8.0/24\"\ngateway_ip = \"10.94.8.1\"\ndhcp_start = \"10.94.8.100\"\ndhcp_end = \"10.94.8.200\"\n", 0o600)
	write(t, filepath.Join(w.home, ".ssh/config"), "Host other\n\tUser me\n", 0o644)
	f.project = filepath.Join(w.home, "work", "my.project é & 'q'")
	write(t, filepath.Join(f.project, "hello.txt"), "hello\n", 0o644)
	dotfiles(t, w)
	t.Cleanup(func() { w.t = t; w.aivm("", "vm", "delete", f.vm, "--yes") })

	f.group("life", f.life)
	f.group("settings", f.settings)
	f.group("use", f.use)
	f.group("firewall", f.firewall)
	f.group("deleted", f.deleted)
}

// group runs one group of cases. If the VM does not exist, because only this group runs, group creates
// it first.
func (f *firstVM) group(name string, cases func(*testing.T)) {
	t := f.w.t
	t.Run(name, func(t *testing.T) {
		f.w.t = t
		if !f.made && name != "life" {
			f.w.must(f.project, "code", ".", "--yes")
		}
		f.made = true
		cases(t)
	})
	f.w.t = t
}

func (f *firstVM) life(t *testing.T) {
	w, vm, project := f.w, f.vm, f.project
	step := w.steps()
	step("refused without approval", func(t *testing.T) {
		if r := w.aivm(project, "code", "."); r.code != 3 || !strings.Contains(r.stderr, "--yes") {
			t.Fatalf("%+v", r)
		}
	})
	step("killed at every fault point", func(t *testing.T) { killWalk(t, w, project) })
	step("the finished VM", func(t *testing.T) { checkVM(t, w, vm, project) })
	step("the share", func(t *testing.T) { checkShare(t, w, vm, project) })
	step("a second run changes nothing", func(t *testing.T) { checkWarm(t, w, vm, project) })
	step("ssh", func(t *testing.T) { checkSSH(t, w, project) })
	step("disk space", func(t *testing.T) { checkDiskSpace(t, w, vm) })
	step("an open session", func(t *testing.T) { checkOpenSession(t, w, vm) })
	step("plain clients", func(t *testing.T) { checkClients(t, w, vm, project) })
	step("attach", func(inner *testing.T) { checkAttach(inner, t, w, vm) })
	step("status and list", func(t *testing.T) { checkFacts(t, w, vm, project) })
	step("the alias", func(t *testing.T) { checkAlias(t, w, vm, project) })
	step("concurrent commands", func(t *testing.T) { checkConcurrent(t, w) })
	if longRun {
		step("prepare", func(t *testing.T) { checkPrepare(t, w, vm) })
	}
}

// deleted deletes the VM after virsh has removed its domain, and searches the host for leftovers.
func (f *firstVM) deleted(t *testing.T) {
	w, vm := f.w, f.vm
	if r := w.aivm("", "vm", "delete", vm); r.code != 3 || !strings.Contains(r.stderr, "aivm vm delete "+vm+" --yes") {
		t.Errorf("without a terminal: %+v", r)
	}
	if r := w.aivm("", "host", "net", "destroy", f.net, "--yes"); r.code != 2 || !strings.Contains(r.stderr, "is referenced by managed VMs: "+vm) {
		t.Errorf("host net destroy of a network in use: %+v", r)
	}
	mac := strings.Fields(runHost(t, "sh", "-c", "virsh -c qemu:///system domiflist "+vm+" | grep -o '52:54:[0-9a-f:]*'"))[0]
	if !strings.Contains(runHost(t, "nft", "list", "ruleset"), mac) {
		t.Error("the rules do not have the VM's MAC address")
	}
	dir := filepath.Join(w.home, ".local/state/aivm", vm)
	sums := func() string {
		return runHost(t, "sh", "-c", `cd "$1" && find . -type f -exec sha256sum {} + | sort`, "sh", filepath.Dir(f.project))
	}
	before := sums()
	f.domainRemoved(t)
	if sums() != before {
		t.Error("deleting the VM changed the host's folders")
	}
	if l, err := os.ReadDir(dir); err == nil {
		t.Errorf("the VM's state directory still exists: %v", l)
	}
	if out := runHost(t, "sh", "-c", "nft list ruleset; cat /var/lib/aivm/manifest/*.json"); strings.Contains(out, mac) {
		t.Error("the rules still have the MAC address of a deleted VM")
	}
	w.must("", "host", "net", "destroy", f.net, "--yes")
	if out := runHost(t, "sh", "-c", "virsh -c qemu:///system net-list --all --name; ls /var/lib/aivm/manifest; nft list tables"); strings.Contains(out, f.net+"\n") || strings.Contains(out, "net-"+f.net+".json") || strings.Contains(out, strings.ReplaceAll(f.net, "-", "_")+"_") {
		t.Errorf("leftovers of the network:\n%s", out)
	}
	if b, err := os.ReadFile(filepath.Join(w.home, ".ssh/config")); err != nil || string(b) != "Host other\n\tUser me\n" {
		t.Errorf("~/.ssh/config after the last VM was deleted: %v\n%s", err, b)
	}
}

// domainRemoved removes the domain with virsh. Folders, also one that no longer exists, can still be
// detached, and vm delete removes the rest of the VM.
func (f *firstVM) domainRemoved(t *testing.T) {
	w, vm := f.w, f.vm
	kept, moved := w.project("kept"), w.project("moved")
	for _, dir := range []string{kept, moved} {
		w.must(dir, "attach", ".", "--yes")
	}
	virsh(t, "destroy", vm)
	virsh(t, "undefine", vm)
	if err := os.Rename(moved, moved+".elsewhere"); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{kept, moved} {
		w.must("", "detach", dir)
	}
	if b, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(b), kept) || strings.Contains(string(b), moved) {
		t.Errorf("a folder is still mounted: %v\n%s", err, b)
	}
	if r := w.must("", "list", "--json"); strings.Contains(r.stdout, kept) || strings.Contains(r.stdout, moved) {
		t.Errorf("a detached folder is still recorded: %s", r.stdout)
	}
	w.must("", "vm", "delete", vm, "--yes")
	leftovers(t, w, vm)
}
