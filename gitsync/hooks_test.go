package gitsync_test

import (
	"os"
	"path/filepath"
	"testing"

	"aivm.dev/aivm/gitsync/clonetest"
	"aivm.dev/aivm/gitsync/gittest"
)

// TestOldHooks checks that a push removes the hook of an older aivm from the clone, and nothing else: a
// folder of this machine may be mounted in the directory, or a link may lead to one.
func TestOldHooks(t *testing.T) {
	p := clonetest.New(t)
	p.CommitH("a.txt", "one\n")
	p.Sync()
	git, other := filepath.Join(p.Guest, ".git"), t.TempDir()
	hooks, err := filepath.Glob(git + "/aivm-hooks-*")
	if err != nil || len(hooks) != 1 {
		t.Fatalf("%v %v", hooks, err)
	}
	if err := os.Rename(hooks[0], git+"/aivm-hooks-0"); err != nil {
		t.Fatal(err)
	}
	kept := []string{git + "/aivm-hooks-1/mine", git + "/aivm-hooks-1/dir/mine", other + "/push-to-checkout", other + "/mine"}
	for _, f := range kept {
		gittest.WriteFile(t, f, "x\n")
	}
	if err := os.Symlink(other, git+"/aivm-hooks-2"); err != nil {
		t.Fatal(err)
	}
	at := p.CommitH("a.txt", "two\n")
	if pr := p.Sync(); pr != nil {
		t.Fatal(pr)
	}
	gittest.Equal(t, "the guest's commit", p.GitG("rev-parse", "main"), at)
	if _, err := os.Lstat(git + "/aivm-hooks-0"); err == nil {
		t.Error("the hook of an older aivm is still in the clone")
	}
	for _, f := range append(kept, hooks[0]+"/push-to-checkout") {
		if _, err := os.Lstat(f); err != nil {
			t.Error(err)
		}
	}
}
