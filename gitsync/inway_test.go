package gitsync

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestInTheWay: what the guest's files would lose by a push keeps the push out,
// whatever it is called.
func TestInTheWay(t *testing.T) {
	p := newPair(t)
	p.s.env = []string{"GIT_OPTIONAL_LOCKS=0"} // as somebody may have set it in the guest
	p.commitH("a.txt", "one\n")
	p.sync()
	start := p.gitH("rev-parse", "HEAD")
	refused := func(t *testing.T, name string) {
		t.Helper()
		before := p.gitG("rev-parse", "HEAD")
		p.gitH("add", "-f", "-A")
		p.gitH("commit", "-q", "-m", "new")
		if pr := p.sync(); pr == nil || !strings.Contains(pr.Error(), "not clean") || !strings.Contains(pr.Error(), name) {
			t.Errorf("%v", pr)
		}
		equal(t, "the guest's commit", p.gitG("rev-parse", "HEAD"), before)
		p.gitH("reset", "-q", "--hard", start)
	}
	writeFile(t, filepath.Join(p.guest, ".git/info/exclude"), "*.mine\nlink\nover\n")
	for _, name := range []string{"x.mine", "d/e/x.mine", "two words.mine", `q"uote.mine`, `back\slash.mine`, "tab\there.mine", "é.mine", "*.mine", "-n.mine"} {
		t.Run(name, func(t *testing.T) {
			writeFile(t, filepath.Join(p.guest, name), "the guest's\n")
			writeFile(t, filepath.Join(p.host, name), "the host's\n")
			refused(t, "mine")
			equal(t, "the guest's file", readFile(t, filepath.Join(p.guest, name)), "the guest's\n")
			if err := os.Remove(filepath.Join(p.guest, name)); err != nil {
				t.Fatal(err)
			}
		})
	}
	t.Run("a link where a directory is to be", func(t *testing.T) {
		mkdir(t, filepath.Join(p.guest, "over"))
		if err := os.Symlink("over", filepath.Join(p.guest, "link")); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(p.host, "link/below/f"), "the host's\n")
		refused(t, "link")
		if to, err := os.Readlink(filepath.Join(p.guest, "link")); err != nil || to != "over" {
			t.Errorf("the guest's link: %q, %v", to, err)
		}
	})
	t.Run("staged and taken back in the file", func(t *testing.T) {
		writeFile(t, filepath.Join(p.guest, "a.txt"), "staged\n")
		p.gitG("add", "a.txt")
		writeFile(t, filepath.Join(p.guest, "a.txt"), "one\n")
		writeFile(t, filepath.Join(p.host, "b.txt"), "b\n")
		refused(t, "a.txt")
		p.gitG("reset", "-q", "--hard")
	})
	t.Run("a tracked link becomes a directory", func(t *testing.T) {
		writeFile(t, filepath.Join(p.guest, "over/f"), "ignored\n")
		if err := os.Symlink("over", filepath.Join(p.host, "kept")); err != nil {
			t.Fatal(err)
		}
		p.gitH("add", "-A")
		p.gitH("commit", "-q", "-m", "a link")
		if pr := p.sync(); pr != nil {
			t.Fatal(pr)
		}
		p.gitH("rm", "-q", "kept")
		p.commitH("kept/f", "a directory's\n")
		if pr := p.sync(); pr != nil {
			t.Fatal(pr)
		}
		equal(t, "the guest's file", readFile(t, filepath.Join(p.guest, "kept/f")), "a directory's\n")
		equal(t, "what the link led to", readFile(t, filepath.Join(p.guest, "over/f")), "ignored\n")
	})
	t.Run("touched, not changed", func(t *testing.T) {
		if err := os.Chtimes(filepath.Join(p.guest, "a.txt"), time.Unix(1e9, 0), time.Unix(1e9, 0)); err != nil {
			t.Fatal(err)
		}
		at := p.commitH("a.txt", "two\n")
		if pr := p.sync(); pr != nil {
			t.Fatal(pr)
		}
		equal(t, "the guest's commit", p.gitG("rev-parse", "HEAD"), at)
	})
	p.fsck()
}
