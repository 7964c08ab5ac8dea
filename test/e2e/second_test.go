package e2e

import (
	"path/filepath"
	"testing"
)

// secondVM is another VM that test cases share. They run in parallel with those of TestFirstVM.
type secondVM struct {
	w                *world
	vm, net, project string
	shares           *shares
	hostile          *hostile
	repo             *gitWorld
	made             bool // the VM exists
}

// TestSecondVM tests a hostile guest, attach and detach of many folders, load, snapshots, rollback and
// git mode on one VM, deletes it, and searches the host for leftovers. To run one group only:
//
//	RUN=TestSecondVM/git scripts/test.sh e2e
func TestSecondVM(t *testing.T) {
	w := rootWorld(t)
	w.env = append(w.env, "FAKECODE_QUICK=1") // one case opens the editor
	s := &secondVM{w: w, vm: "e2esecond", net: "e2e-net2", project: filepath.Join(w.home, "work", "guarded")}
	write(t, filepath.Join(w.home, ".config/aivm/config.toml"), "[defaults.vm]\nname = \""+s.vm+"\"\nram_mb = 1536\ncpus = 1\npassword = \"hunter2-of-the-store\"\n"+
		// Its own network, because the test removes it with virsh at the end.
		"[defaults.network]\nname = \""+s.net+"\"\nbridge = \"vbr-e2e2\"\nsubnet_cidr = \"10.94.9.0/24\"\ngateway_ip = \"10.94.9.1\"\ndhcp_start = \"10.94.9.100\"\ndhcp_end = \"10.94.9.200\"\n", 0o600)
	write(t, filepath.Join(w.home, ".ssh/config"), "Host other\n\tUser me\n", 0o644)
	write(t, filepath.Join(w.home, ".gitconfig"), gitConfig, 0o644)
	write(t, filepath.Join(s.project, "hello.txt"), "hello\n", 0o644)
	s.shares = &shares{w: w, vm: s.vm, top: filepath.Join(w.home, "f")}
	s.repo = newGitWorld(w, s.vm)
	t.Cleanup(func() { w.t = t; w.aivm("", "vm", "delete", s.vm, "--yes", "--discard-work") })

	s.group("guards", s.guards)
	s.group("shares", s.shares.all)
	s.group("load", func(t *testing.T) { checkLoad(t, w, s.vm, s.project) })
	s.group("snapshots", s.snapshots)
	s.group("git", s.repo.all)
	s.group("deleted", s.deleted)
}

// group runs one group of cases. If the VM does not exist, because only this group runs, group creates
// it first.
func (s *secondVM) group(name string, cases func(*testing.T)) {
	t := s.w.t
	t.Run(name, func(t *testing.T) {
		s.w.t = t
		if !s.made && name != "guards" {
			s.w.must(s.project, "code", ".", "--yes")
		}
		s.made = true
		cases(t)
	})
	s.w.t = t
}

func (s *secondVM) guards(t *testing.T) {
	w, vm, project := s.w, s.vm, s.project
	seen := watchArguments(t, "hunter2-of-the-store")
	w.must(project, "code", ".", "--yes", "-vv")
	step := w.steps()
	step("secrets", func(t *testing.T) { checkSecrets(t, w, vm, project, seen) })
	step("the script that cleans a copy", func(t *testing.T) { checkCleanRefused(t, w, vm) })
	step("the clock", func(t *testing.T) { checkClock(t, w, vm, project) })
	step("a hostile guest", func(t *testing.T) { s.hostile = checkHostile(t, w, vm, project) })
}

// deleted deletes the VM and checks its folders, the repository, leftovers on the host, and the stale
// firewall of a network that virsh removed.
func (s *secondVM) deleted(t *testing.T) {
	step := s.w.steps()
	if s.repo.config != "" {
		step("what only its clone has", s.repo.deleted)
	} else {
		s.w.must("", "vm", "delete", s.vm, "--yes")
	}
	step("its folders", s.shares.unchanged)
	step("leftovers", func(t *testing.T) { leftovers(t, s.w, s.vm) })
	step("a network that was removed", func(t *testing.T) { checkStaleNetwork(t, s.w, s.net) })
}
