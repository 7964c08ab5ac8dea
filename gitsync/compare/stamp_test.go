package compare_test

import (
	"os"
	"path/filepath"
	"testing"

	"aivm.dev/aivm/gitsync/clonetest"
	"aivm.dev/aivm/gitsync/compare"
	"aivm.dev/aivm/gitsync/gittest"
	"aivm.dev/aivm/gitsync/hostgit"
)

// Everything that Observe depends on changes the stamp, and nothing else does.
func TestStamp(t *testing.T) {
	p := clonetest.New(t)
	p.CommitH("a", "a")
	p.Sync()
	r, err := hostgit.Find(p.Host)
	if err != nil {
		t.Fatal(err)
	}
	stamp := func() string {
		t.Helper()
		s, ok := compare.Stamp(r, "aivm-vm")
		if !ok {
			t.Fatal("no stamp")
		}
		return s
	}
	last := stamp()
	changes := func(what string, f func()) {
		t.Helper()
		f()
		if s := stamp(); s == last {
			t.Errorf("%s does not change the stamp", what)
		} else {
			last = s
		}
	}
	gittest.WriteFile(t, filepath.Join(p.Host, "uncommitted"), "x")
	p.GitH("stash", "-q", "-u")
	p.GitH("branch", "other")
	p.GitH("status")
	gittest.Equal(t, "after irrelevant changes", stamp(), last)
	changes("a commit", func() { p.CommitH("b", "b") })
	changes("a tag", func() { p.GitH("tag", "v1") })
	changes("packed refs", func() { p.GitH("pack-refs", "--all") })
	changes("another branch", func() { p.GitH("switch", "-q", "other") })
	changes("a manual fetch", func() { p.GitH("update-ref", "refs/remotes/aivm-vm/x", "HEAD") })
	changes("the configuration", func() { p.GitH("config", "x.y", "1") })
	p.GitH("checkout", "-q", "--detach")
	if _, ok := compare.Stamp(r, "aivm-vm"); ok {
		t.Error("a stamp of a detached HEAD")
	}
	p.GitH("switch", "-q", "main")
	if err := os.Mkdir(filepath.Join(p.Host, ".git/reftable"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, ok := compare.Stamp(r, "aivm-vm"); ok {
		t.Error("a stamp where refs are not files")
	}
}
