package gitsync_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"aivm.dev/aivm/gitsync/clonetest"
	"aivm.dev/aivm/gitsync/gittest"
)

// TestInTheWay checks that a push is refused if it would overwrite files of the guest, whatever
// their names.
func TestInTheWay(t *testing.T) {
	p := clonetest.New(t)
	p.Server.Env = []string{"GIT_OPTIONAL_LOCKS=0"} // the guest user may have set this
	p.CommitH("a.txt", "one\n")
	p.Sync()
	start := p.GitH("rev-parse", "HEAD")
	refused := func(t *testing.T, name string) {
		t.Helper()
		before := p.GitG("rev-parse", "HEAD")
		p.GitH("add", "-f", "-A")
		p.GitH("commit", "-q", "-m", "new")
		if pr := p.Sync(); pr == nil || !strings.Contains(pr.Error(), "not clean") || !strings.Contains(pr.Error(), name) {
			t.Errorf("%v", pr)
		}
		gittest.Equal(t, "the guest's commit", p.GitG("rev-parse", "HEAD"), before)
		p.GitH("reset", "-q", "--hard", start)
	}
	gittest.WriteFile(t, filepath.Join(p.Guest, ".git/info/exclude"), "*.mine\nlink\nover\n")
	for _, name := range []string{"x.mine", "d/e/x.mine", "two words.mine", `q"uote.mine`, `back\slash.mine`, "tab\there.mine", "é.mine", "*.mine", "-n.mine"} {
		t.Run(name, func(t *testing.T) {
			gittest.WriteFile(t, filepath.Join(p.Guest, name), "the guest's\n")
			gittest.WriteFile(t, filepath.Join(p.Host, name), "the host's\n")
			refused(t, "mine")
			gittest.Equal(t, "the guest's file", gittest.ReadFile(t, filepath.Join(p.Guest, name)), "the guest's\n")
			if err := os.Remove(filepath.Join(p.Guest, name)); err != nil {
				t.Fatal(err)
			}
		})
	}
	t.Run("a link where a directory is to be", func(t *testing.T) {
		gittest.Mkdir(t, filepath.Join(p.Guest, "over"))
		if err := os.Symlink("over", filepath.Join(p.Guest, "link")); err != nil {
			t.Fatal(err)
		}
		gittest.WriteFile(t, filepath.Join(p.Host, "link/below/f"), "the host's\n")
		refused(t, "link")
		if to, err := os.Readlink(filepath.Join(p.Guest, "link")); err != nil || to != "over" {
			t.Errorf("the guest's link: %q, %v", to, err)
		}
	})
	t.Run("staged and taken back in the file", func(t *testing.T) {
		gittest.WriteFile(t, filepath.Join(p.Guest, "a.txt"), "staged\n")
		p.GitG("add", "a.txt")
		gittest.WriteFile(t, filepath.Join(p.Guest, "a.txt"), "one\n")
		gittest.WriteFile(t, filepath.Join(p.Host, "b.txt"), "b\n")
		refused(t, "a.txt")
		p.GitG("reset", "-q", "--hard")
	})
	t.Run("a tracked link becomes a directory", func(t *testing.T) {
		gittest.WriteFile(t, filepath.Join(p.Guest, "over/f"), "ignored\n")
		if err := os.Symlink("over", filepath.Join(p.Host, "kept")); err != nil {
			t.Fatal(err)
		}
		p.GitH("add", "-A")
		p.GitH("commit", "-q", "-m", "a link")
		if pr := p.Sync(); pr != nil {
			t.Fatal(pr)
		}
		p.GitH("rm", "-q", "kept")
		p.CommitH("kept/f", "a directory's\n")
		if pr := p.Sync(); pr != nil {
			t.Fatal(pr)
		}
		gittest.Equal(t, "the guest's file", gittest.ReadFile(t, filepath.Join(p.Guest, "kept/f")), "a directory's\n")
		gittest.Equal(t, "what the link led to", gittest.ReadFile(t, filepath.Join(p.Guest, "over/f")), "ignored\n")
	})
	t.Run("touched, not changed", func(t *testing.T) {
		if err := os.Chtimes(filepath.Join(p.Guest, "a.txt"), time.Unix(1e9, 0), time.Unix(1e9, 0)); err != nil {
			t.Fatal(err)
		}
		at := p.CommitH("a.txt", "two\n")
		if pr := p.Sync(); pr != nil {
			t.Fatal(pr)
		}
		gittest.Equal(t, "the guest's commit", p.GitG("rev-parse", "HEAD"), at)
	})
	p.Fsck()
}
