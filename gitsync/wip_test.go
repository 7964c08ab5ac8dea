package gitsync

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func (p *pair) wip() string {
	p.t.Helper()
	h, g := p.observe()
	said, err := SendUncommitted(context.Background(), p.peer, *h, g)
	if err != nil {
		p.t.Fatal(err)
	}
	return said
}

func TestUncommitted(t *testing.T) {
	p := newPair(t)
	p.commitH(".gitignore", "ignored\n")
	p.commitH("a.txt", "one\n")
	p.commitH("gone.txt", "x\n")
	p.sync()
	if said := p.wip(); said != "Nothing is uncommitted here" {
		t.Errorf("said %q", said)
	}
	writeFile(t, filepath.Join(p.host, "a.txt"), "two\n")
	writeFile(t, filepath.Join(p.host, "dir/new é.txt"), "new\n")
	writeFile(t, filepath.Join(p.host, "ignored"), "secret\n")
	writeFile(t, filepath.Join(p.host, "staged.txt"), "staged\n")
	p.gitH("add", "staged.txt")
	if err := os.Remove(filepath.Join(p.host, "gone.txt")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("a.txt", filepath.Join(p.host, "link")); err != nil {
		t.Fatal(err)
	}
	status := p.gitH("status", "--porcelain")
	index := readFile(t, filepath.Join(p.host, ".git/index"))
	objects := p.gitH("count-objects", "-v")
	if said := p.wip(); !strings.Contains(said, "(5 files)") || !strings.Contains(said, "shows it") {
		t.Errorf("said %q", said)
	}
	equal(t, "the host's status", p.gitH("status", "--porcelain"), status)
	equal(t, "the host's index", readFile(t, filepath.Join(p.host, ".git/index")), index)
	equal(t, "the host's objects", p.gitH("count-objects", "-v"), objects)
	equal(t, "the guest's file", readFile(t, filepath.Join(p.guest, "a.txt")), "two\n")
	equal(t, "the guest's new file", readFile(t, filepath.Join(p.guest, "dir/new é.txt")), "new\n")
	equal(t, "the guest's status", p.gitG("status", "--porcelain", "-uall"), " M a.txt\n D gone.txt\n?? \"dir/new \\303\\251.txt\"\n?? link\n?? staged.txt")
	if _, err := os.Lstat(filepath.Join(p.guest, "ignored")); err == nil {
		t.Error("an ignored file was sent")
	}
	wip := p.gitG("rev-parse", "refs/aivm/wip/main")
	// The same again: no push.
	before := p.s.execs.Load()
	p.wip()
	if n := p.s.execs.Load() - before; n != 2 {
		t.Errorf("%d execs for the same state", n)
	}
	equal(t, "the same commit", p.gitG("rev-parse", "refs/aivm/wip/main"), wip)
	// More of it, on top of what the guest shows.
	writeFile(t, filepath.Join(p.host, "a.txt"), "three\n")
	if err := os.RemoveAll(filepath.Join(p.host, "dir")); err != nil {
		t.Fatal(err)
	}
	if said := p.wip(); !strings.Contains(said, "shows it") {
		t.Errorf("said %q", said)
	}
	equal(t, "the guest's file", readFile(t, filepath.Join(p.guest, "a.txt")), "three\n")
	if _, err := os.Lstat(filepath.Join(p.guest, "dir")); err == nil {
		t.Error("what is gone here is still there")
	}
	// The guest changes something: it stays as it is.
	writeFile(t, filepath.Join(p.guest, "a.txt"), "the guest's\n")
	writeFile(t, filepath.Join(p.host, "a.txt"), "four\n")
	if said := p.wip(); !strings.Contains(said, "changes of its own: a.txt") {
		t.Errorf("said %q", said)
	}
	equal(t, "the guest's file", readFile(t, filepath.Join(p.guest, "a.txt")), "the guest's\n")
	writeFile(t, filepath.Join(p.guest, "a.txt"), "three\n")
	if said := p.wip(); !strings.Contains(said, "shows it") {
		t.Errorf("said %q", said)
	}
	// Committed here: the guest, which only shows what was sent, follows.
	at := p.commitH("more", "x")
	if pr := p.sync(); pr != nil {
		t.Fatal(pr)
	}
	equal(t, "the guest's commit", p.gitG("rev-parse", "HEAD"), at)
	equal(t, "the guest's status", p.gitG("status", "--porcelain"), "")
	// An uncommitted state that went away goes away there too.
	writeFile(t, filepath.Join(p.host, "a.txt"), "five\n")
	p.wip()
	p.gitH("checkout", "-q", "a.txt")
	if said := p.wip(); !strings.Contains(said, "nothing of what was is left") {
		t.Errorf("said %q", said)
	}
	equal(t, "the guest's status", p.gitG("status", "--porcelain"), "")
	// An ignored file of the guest's is in the way of one that is not here.
	writeFile(t, filepath.Join(p.guest, ".git/info/exclude"), "mine\n")
	writeFile(t, filepath.Join(p.guest, "mine"), "precious\n")
	writeFile(t, filepath.Join(p.host, "mine"), "other\n")
	if said := p.wip(); !strings.Contains(said, "stays as it is") {
		t.Errorf("said %q", said)
	}
	equal(t, "the guest's ignored file", readFile(t, filepath.Join(p.guest, "mine")), "precious\n")
	p.fsck()
}

// TestPushCutAfterTheFiles plays a push that died after it wrote the files and
// before it moved the branch.
func TestPushCutAfterTheFiles(t *testing.T) {
	p := newPair(t)
	old := p.commitH("a.txt", "one\n")
	p.sync()
	at := p.commitH("a.txt", "two\n")
	p.sync()
	p.gitG("update-ref", "refs/heads/main", old)
	p.gitH("update-ref", "refs/remotes/aivm-vm/main", old)
	if pr := p.sync(); pr != nil {
		t.Fatal(pr)
	}
	equal(t, "the guest's commit", p.gitG("rev-parse", "main"), at)
	equal(t, "the guest's status", p.gitG("status", "--porcelain"), "")
	equal(t, "tracked", p.gitH("rev-parse", "aivm-vm/main"), at)
}

// TestIgnoredFilesOfTheGuest: git itself writes over ignored files when a
// branch that is checked out is pushed to. Here they are files like others.
func TestIgnoredFilesOfTheGuest(t *testing.T) {
	p := newPair(t)
	p.commitH(".gitignore", ".env\nbuild\n")
	p.sync()
	writeFile(t, filepath.Join(p.guest, ".env"), "precious\n")
	writeFile(t, filepath.Join(p.guest, "build/out"), "made\n")
	writeFile(t, filepath.Join(p.host, ".env"), "other\n")
	p.gitH("add", "-f", ".env")
	p.gitH("commit", "-q", "-m", "env")
	pr := p.sync()
	if pr == nil || !strings.Contains(pr.Error(), ".env") {
		t.Errorf("%v", pr)
	}
	equal(t, "the guest's file", readFile(t, filepath.Join(p.guest, ".env")), "precious\n")
	p.gitH("reset", "-q", "--hard", "HEAD~1")
	writeFile(t, filepath.Join(p.host, "build"), "a file now\n")
	p.gitH("add", "-f", "build")
	p.gitH("commit", "-q", "-m", "build")
	if pr := p.sync(); pr == nil {
		t.Error("a directory of ignored files was replaced")
	}
	equal(t, "the guest's file", readFile(t, filepath.Join(p.guest, "build/out")), "made\n")
	p.gitH("reset", "-q", "--hard", "HEAD~1")
	// What is tracked may change its kind.
	p.commitH("x/y", "1\n")
	if pr := p.sync(); pr != nil {
		t.Fatal(pr)
	}
	p.gitH("rm", "-q", "-r", "x")
	p.commitH("x", "a file\n")
	if pr := p.sync(); pr != nil {
		t.Fatal(pr)
	}
	p.gitH("rm", "-q", "x")
	p.commitH("x/z", "a directory\n")
	if pr := p.sync(); pr != nil {
		t.Fatal(pr)
	}
	equal(t, "the guest's file", readFile(t, filepath.Join(p.guest, "x/z")), "a directory\n")
	equal(t, "the guest's status", p.gitG("status", "--porcelain"), "")
}
