package hostgit

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"aivm.dev/aivm/gitsync/gittest"
	"aivm.dev/aivm/gitsync/writable"
	"aivm.dev/aivm/internal/ui"
)

// TestWhatGuestsWrite checks that a file counts as in a guest-writable folder by its name, by a
// link on its path, by a hard link, and before it exists.
func TestWhatGuestsWrite(t *testing.T) {
	dir := gittest.Real(t, t.TempDir())
	shared, own := filepath.Join(dir, "shared"), filepath.Join(dir, "own")
	gittest.WriteFile(t, filepath.Join(shared, "f"), "x")
	gittest.WriteFile(t, filepath.Join(own, "f"), "x")
	for from, to := range map[string]string{"own/there": "../shared", "shared/back": "../own", "own/loop": "loop", "own/dangling": "../shared/none/f"} {
		if err := os.Symlink(to, filepath.Join(dir, from)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(shared, "f"), filepath.Join(own, "second")); err != nil {
		t.Fatal(err)
	}
	g, err := writable.New(map[string]string{shared: "vm"})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"own/f": false, "shared/f": true, "own/there/f": true, "shared/back/f": true, "own/there/back/f": true, "own/none/../f": false,
		"own/none/f": false, "shared/none/f": true, "own/dangling": true, "sharedd/f": false, "own/loop": false,
	} {
		tr, _ := writable.Trail(filepath.Join(dir, "/") + "/" + name)
		yes := slices.ContainsFunc(tr, func(p string) bool { _, _, yes := g.FolderAround(p); return yes })
		if yes != want {
			t.Errorf("%s: %v, by way of %v", name, yes, tr)
		}
	}
	if _, vm, yes := g.HardLinked(filepath.Join(own, "second")); !yes || vm != "vm" {
		t.Error("a hard link was not found")
	}
	if _, _, yes := g.HardLinked(filepath.Join(own, "f")); yes {
		t.Error("a file with one link counts as hard-linked")
	}
	// A store that is borrowed from indirectly.
	repo := Repo{Top: own, GitDir: filepath.Join(own, ".git"), CommonDir: filepath.Join(own, ".git")}
	gittest.Mkdir(t, filepath.Join(shared, "objects"))
	gittest.WriteFile(t, filepath.Join(own, ".git/objects/info/alternates"), "# c\n\""+filepath.Join(dir, "middle/objects")+"\"\n")
	gittest.WriteFile(t, filepath.Join(dir, "middle/objects/info/alternates"), "../../shared/objects\n")
	if err := repo.Guarded(map[string]string{shared: "vm"}); err == nil || !strings.Contains(ui.Clean(err.Error()), shared) {
		t.Errorf("%v in %v", err, repo.Places())
	}
}
