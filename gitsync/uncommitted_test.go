package gitsync_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"aivm.dev/aivm/gitsync"
	"aivm.dev/aivm/gitsync/clonetest"
	"aivm.dev/aivm/gitsync/gittest"
)

func sendUncommitted(p *clonetest.Pair) string {
	p.T.Helper()
	h, g := p.Observe()
	outcome, err := gitsync.SendUncommitted(context.Background(), p.Peer, *h, g)
	if err != nil {
		p.T.Fatal(err)
	}
	return outcome
}

func TestUncommitted(t *testing.T) {
	p := clonetest.New(t)
	p.CommitH(".gitignore", "ignored\n")
	p.CommitH("a.txt", "one\n")
	p.CommitH("gone.txt", "x\n")
	p.Sync()
	if outcome := sendUncommitted(p); outcome != "Nothing is uncommitted on this machine" {
		t.Errorf("outcome %q", outcome)
	}
	gittest.WriteFile(t, filepath.Join(p.Host, "a.txt"), "two\n")
	gittest.WriteFile(t, filepath.Join(p.Host, "dir/new é.txt"), "new\n")
	gittest.WriteFile(t, filepath.Join(p.Host, "ignored"), "secret\n")
	gittest.WriteFile(t, filepath.Join(p.Host, "staged.txt"), "staged\n")
	p.GitH("add", "staged.txt")
	if err := os.Remove(filepath.Join(p.Host, "gone.txt")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("a.txt", filepath.Join(p.Host, "link")); err != nil {
		t.Fatal(err)
	}
	status := p.GitH("status", "--porcelain")
	index := gittest.ReadFile(t, filepath.Join(p.Host, ".git/index"))
	objects := p.GitH("count-objects", "-v")
	if outcome := sendUncommitted(p); !strings.Contains(outcome, "(5 files)") || !strings.Contains(outcome, "shows the files") {
		t.Errorf("outcome %q", outcome)
	}
	gittest.Equal(t, "the host's status", p.GitH("status", "--porcelain"), status)
	gittest.Equal(t, "the host's index", gittest.ReadFile(t, filepath.Join(p.Host, ".git/index")), index)
	gittest.Equal(t, "the host's objects", p.GitH("count-objects", "-v"), objects)
	gittest.Equal(t, "the guest's file", gittest.ReadFile(t, filepath.Join(p.Guest, "a.txt")), "two\n")
	gittest.Equal(t, "the guest's new file", gittest.ReadFile(t, filepath.Join(p.Guest, "dir/new é.txt")), "new\n")
	gittest.Equal(t, "the guest's status", p.GitG("status", "--porcelain", "-uall"), " M a.txt\n D gone.txt\n?? \"dir/new \\303\\251.txt\"\n?? link\n?? staged.txt")
	if _, err := os.Lstat(filepath.Join(p.Guest, "ignored")); err == nil {
		t.Error("an ignored file was sent")
	}
	wip := p.GitG("rev-parse", "refs/aivm/wip/main")
	// The same state again needs no push.
	before := p.Server.Execs.Load()
	sendUncommitted(p)
	if n := p.Server.Execs.Load() - before; n != 2 {
		t.Errorf("%d commands for the same state", n)
	}
	gittest.Equal(t, "the same commit", p.GitG("rev-parse", "refs/aivm/wip/main"), wip)
	// More changes, on top of what the guest shows.
	gittest.WriteFile(t, filepath.Join(p.Host, "a.txt"), "three\n")
	if err := os.RemoveAll(filepath.Join(p.Host, "dir")); err != nil {
		t.Fatal(err)
	}
	if outcome := sendUncommitted(p); !strings.Contains(outcome, "shows the files") {
		t.Errorf("outcome %q", outcome)
	}
	gittest.Equal(t, "the guest's file", gittest.ReadFile(t, filepath.Join(p.Guest, "a.txt")), "three\n")
	if _, err := os.Lstat(filepath.Join(p.Guest, "dir")); err == nil {
		t.Error("a directory removed on the host is still in the guest")
	}
	// The guest changed a file, so its work tree stays as it is.
	gittest.WriteFile(t, filepath.Join(p.Guest, "a.txt"), "the guest's\n")
	gittest.WriteFile(t, filepath.Join(p.Host, "a.txt"), "four\n")
	if outcome := sendUncommitted(p); !strings.Contains(outcome, "changes of its own: a.txt") {
		t.Errorf("outcome %q", outcome)
	}
	gittest.Equal(t, "the guest's file", gittest.ReadFile(t, filepath.Join(p.Guest, "a.txt")), "the guest's\n")
	gittest.WriteFile(t, filepath.Join(p.Guest, "a.txt"), "three\n")
	if outcome := sendUncommitted(p); !strings.Contains(outcome, "shows the files") {
		t.Errorf("outcome %q", outcome)
	}
	// After a commit on the host, the guest, which has only files that were sent, is updated by the
	// push.
	at := p.CommitH("more", "x")
	if pr := p.Sync(); pr != nil {
		t.Fatal(pr)
	}
	gittest.Equal(t, "the guest's commit", p.GitG("rev-parse", "HEAD"), at)
	gittest.Equal(t, "the guest's status", p.GitG("status", "--porcelain"), "")
	// Uncommitted changes reverted on the host are reverted in the guest too.
	gittest.WriteFile(t, filepath.Join(p.Host, "a.txt"), "five\n")
	if outcome := sendUncommitted(p); !strings.Contains(outcome, "shows the files") {
		t.Errorf("outcome %q", outcome)
	}
	p.GitH("checkout", "-q", "a.txt")
	if outcome := sendUncommitted(p); !strings.Contains(outcome, "what had been sent was removed") {
		t.Errorf("outcome %q", outcome)
	}
	gittest.Equal(t, "the guest's status", p.GitG("status", "--porcelain"), "")
	// An ignored file of the guest has the name of an uncommitted file on the host.
	gittest.WriteFile(t, filepath.Join(p.Guest, ".git/info/exclude"), "mine\n")
	gittest.WriteFile(t, filepath.Join(p.Guest, "mine"), "precious\n")
	gittest.WriteFile(t, filepath.Join(p.Host, "mine"), "other\n")
	if outcome := sendUncommitted(p); !strings.Contains(outcome, "stays as it is") {
		t.Errorf("outcome %q", outcome)
	}
	gittest.Equal(t, "the guest's ignored file", gittest.ReadFile(t, filepath.Join(p.Guest, "mine")), "precious\n")
	p.Fsck()
}

// TestPushCutAfterTheFiles simulates a push that was killed after it wrote the files and before it
// moved the branch.
func TestPushCutAfterTheFiles(t *testing.T) {
	p := clonetest.New(t)
	old := p.CommitH("a.txt", "one\n")
	p.Sync()
	at := p.CommitH("a.txt", "two\n")
	p.Sync()
	p.GitG("update-ref", "refs/heads/main", old)
	p.GitH("update-ref", "refs/remotes/aivm-vm/main", old)
	if pr := p.Sync(); pr != nil {
		t.Fatal(pr)
	}
	gittest.Equal(t, "the guest's commit", p.GitG("rev-parse", "main"), at)
	gittest.Equal(t, "the guest's status", p.GitG("status", "--porcelain"), "")
	gittest.Equal(t, "tracked", p.GitH("rev-parse", "aivm-vm/main"), at)
}

// TestIgnoredFilesOfTheGuest checks that a push does not overwrite ignored files. git itself
// overwrites them when a checked-out branch is pushed to.
func TestIgnoredFilesOfTheGuest(t *testing.T) {
	p := clonetest.New(t)
	p.CommitH(".gitignore", ".env\nbuild\n")
	p.Sync()
	gittest.WriteFile(t, filepath.Join(p.Guest, ".env"), "precious\n")
	gittest.WriteFile(t, filepath.Join(p.Guest, "build/out"), "made\n")
	gittest.WriteFile(t, filepath.Join(p.Host, ".env"), "other\n")
	p.GitH("add", "-f", ".env")
	p.GitH("commit", "-q", "-m", "env")
	pr := p.Sync()
	if pr == nil || !strings.Contains(pr.Error(), ".env") {
		t.Errorf("%v", pr)
	}
	gittest.Equal(t, "the guest's file", gittest.ReadFile(t, filepath.Join(p.Guest, ".env")), "precious\n")
	p.GitH("reset", "-q", "--hard", "HEAD~1")
	gittest.WriteFile(t, filepath.Join(p.Host, "build"), "a file now\n")
	p.GitH("add", "-f", "build")
	p.GitH("commit", "-q", "-m", "build")
	if pr := p.Sync(); pr == nil {
		t.Error("a directory of ignored files was replaced")
	}
	gittest.Equal(t, "the guest's file", gittest.ReadFile(t, filepath.Join(p.Guest, "build/out")), "made\n")
	p.GitH("reset", "-q", "--hard", "HEAD~1")
	// A tracked path may change between file and directory.
	p.CommitH("x/y", "1\n")
	if pr := p.Sync(); pr != nil {
		t.Fatal(pr)
	}
	p.GitH("rm", "-q", "-r", "x")
	p.CommitH("x", "a file\n")
	if pr := p.Sync(); pr != nil {
		t.Fatal(pr)
	}
	p.GitH("rm", "-q", "x")
	p.CommitH("x/z", "a directory\n")
	if pr := p.Sync(); pr != nil {
		t.Fatal(pr)
	}
	gittest.Equal(t, "the guest's file", gittest.ReadFile(t, filepath.Join(p.Guest, "x/z")), "a directory\n")
	gittest.Equal(t, "the guest's status", p.GitG("status", "--porcelain"), "")
}
