package e2e

import (
	"path/filepath"
	"testing"
)

// secondVM is the VM that cases share which run beside those of TestFirstVM.
type secondVM struct {
	w                *world
	vm, net, project string
	shares           *shares
	repo             *gitWorld
	made             bool
}

// TestSecondVM is one VM that is hostile, whose folders come and go in every way,
// that is under load, snapshotted, put back, has clones of a repository, and is
// deleted and looked for everywhere. A group alone:
//
//	RUN=TestSecondVM/git scripts/test.sh e2e
func TestSecondVM(t *testing.T) {
	w := rootWorld(t)
	s := &secondVM{w: w, vm: "e2esecond", net: "e2e-net2", project: filepath.Join(w.home, "work", "guarded")}
	write(t, filepath.Join(w.home, ".config/aivm/config.toml"), "[defaults.vm]\nname = \""+s.vm+"\"\nram_mb = 1536\ncpus = 1\npassword = \"hunter2-of-the-store\"\n"+
		// A network of its own: virsh removes it at the end.
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
	s.group("snapshots", func(t *testing.T) {
		checkSnapshots(t, w, s.vm, s.project, func(t *testing.T) {
			if len(s.shares.made) == 0 { // this group alone
				w.must("", "vm", "up", s.vm)
				return
			}
			s.shares.hostReboot(t)
		})
	})
	s.group("git", s.repo.all)
	s.group("deleted", s.deleted)
}

// group runs one group of cases; alone, it makes the VM first.
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
	step("the clock", func(t *testing.T) { checkClock(t, w, vm, project) })
	step("a hostile guest", func(t *testing.T) { checkHostile(t, w, vm, project) })
}

// deleted deletes the VM and looks for it everywhere, in its folders, in the
// repository, and in what is kept of a network that virsh removed.
func (s *secondVM) deleted(t *testing.T) {
	step := s.w.steps()
	if s.repo.config != "" {
		step("what only its clone has", s.repo.deleted)
	} else {
		s.w.must("", "vm", "delete", s.vm, "--yes")
	}
	step("its folders", s.shares.untouched)
	step("everywhere", func(t *testing.T) { leftovers(t, s.w, s.vm) })
	step("a network that is gone", func(t *testing.T) { checkGone(t, s.w, s.net) })
}
