package gitsync

import (
	"os"
	"path/filepath"
	"testing"
)

// Whatever a look hangs on changes the stamp, and nothing else does.
func TestStamp(t *testing.T) {
	p := newPair(t)
	p.commitH("a", "a")
	p.sync()
	r, err := Find(p.host)
	if err != nil {
		t.Fatal(err)
	}
	stamp := func() string {
		t.Helper()
		s, ok := Stamp(r, "aivm-vm")
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
			t.Errorf("%s does not show", what)
		} else {
			last = s
		}
	}
	writeFile(t, filepath.Join(p.host, "uncommitted"), "x")
	p.gitH("stash", "-q", "-u")
	p.gitH("branch", "other")
	p.gitH("status")
	equal(t, "after what does not matter", stamp(), last)
	changes("a commit", func() { p.commitH("b", "b") })
	changes("a tag", func() { p.gitH("tag", "v1") })
	changes("packed refs", func() { p.gitH("pack-refs", "--all") })
	changes("another branch", func() { p.gitH("switch", "-q", "other") })
	changes("a fetch by hand", func() { p.gitH("update-ref", "refs/remotes/aivm-vm/x", "HEAD") })
	changes("the configuration", func() { p.gitH("config", "x.y", "1") })
	p.gitH("checkout", "-q", "--detach")
	if _, ok := Stamp(r, "aivm-vm"); ok {
		t.Error("a stamp of a detached HEAD")
	}
	p.gitH("switch", "-q", "main")
	if err := os.Mkdir(filepath.Join(p.host, ".git/reftable"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, ok := Stamp(r, "aivm-vm"); ok {
		t.Error("a stamp where refs are not files")
	}
}
