package outside_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"aivm.dev/aivm/gitsync/outside"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// sh runs shell lines in a new directory with a repository main of one commit, and returns
// the directory.
func sh(t *testing.T, lines string) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	cmd := exec.Command("sh", "-ec", "git init -q main; cd main; echo x >f; git add .; git commit -qm x; cd ..\n"+lines)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b", "GIT_CEILING_DIRECTORIES="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}

func text(dir string, needs []outside.Need) string {
	var b strings.Builder
	for _, n := range needs {
		b.WriteString(string(n.Kind) + " " + n.Path + " in " + n.File + " attach " + n.Top)
		if n.Confirmed {
			b.WriteString(" confirmed")
		}
		b.WriteString("\n")
	}
	return strings.ReplaceAll(b.String(), dir+"/", "")
}

// What git itself creates.
func TestFind(t *testing.T) {
	for _, c := range []struct{ lines, folder, want string }{
		{"", "main", ""},
		{"mkdir plain", "plain", ""},
		{"git -C main worktree add -q ../wt -b f", "wt", "worktree main/.git/worktrees/wt in .git attach main confirmed\n"},
		{"git -C main worktree add -q ../wt -b f; cd wt; printf 'gitdir: ../main/.git/worktrees/wt' >.git", "wt", "worktree main/.git/worktrees/wt in .git attach main confirmed\n"},
		{"git -C main worktree add -q ./in/wt -b f", "main", ""},
		{"git -C main worktree add -q ../wt -b f; rm -r main", "wt", ""},
		{"git clone -q --bare main x.git; git -C x.git worktree add -q ../wt -b f", "wt", "worktree x.git/worktrees/wt in .git attach x.git confirmed\n"},
		{"git init -q super; cd super; git -c protocol.file.allow=always submodule -q add ../main sub", "super/sub", "submodule super/.git/modules/sub in .git attach super confirmed\n"},
		{"git init -q super; cd super; git -c protocol.file.allow=always submodule -q add ../main 'a b/sub'", "super/a b/sub", "submodule super/.git/modules/a b/sub in .git attach super confirmed\n"},
		{"git init -q super; cd super; git -c protocol.file.allow=always submodule -q add ../main sub", "super", ""},
		{"git clone -q --shared main borrower", "borrower", "objects main/.git/objects in .git/objects/info/alternates attach main\n"},
		{"git clone -q --bare --shared main b.git", "b.git", "objects main/.git/objects in objects/info/alternates attach main\n"},
		{"git clone -q --shared main one; git clone -q --shared one two", "two", "objects one/.git/objects in .git/objects/info/alternates attach one\nobjects main/.git/objects in DIR/one/.git/objects/info/alternates attach main\n"},
		{"git clone -q --shared main one; git -C one worktree add -q ../wt -b f", "wt", "worktree one/.git/worktrees/wt in .git attach one confirmed\nobjects main/.git/objects in DIR/one/.git/objects/info/alternates attach main\n"},
		{"git init -q --separate-git-dir away work", "work", "gitdir away in .git attach away\n"},
		{"mkdir work; ln -s ../main/.git work/.git", "work", "gitdir main/.git in .git attach main\n"},
		{"mkdir -p main/d/e", "main/d/e", "parent main/.git in DIR/main/.git attach main confirmed\n"},
	} {
		dir := sh(t, c.lines)
		want := strings.ReplaceAll(c.want, "DIR/", "")
		if got := text(dir, outside.Find(filepath.Join(dir, c.folder))); got != want {
			t.Errorf("%s: %s:\n%swant\n%s", c.lines, c.folder, got, want)
		}
	}
}

// What a guest can write: it ends soon, reads nothing that is not a small file, and a repository
// that the guest only names is not confirmed.
func TestHostileFolder(t *testing.T) {
	dir := sh(t, "git -C main worktree add -q ../wt -b f; mkdir evil; git init -q flood; git init -q loop")
	evil := filepath.Join(dir, "evil")
	dot := filepath.Join(evil, ".git")
	main := filepath.Join(dir, "main/.git")
	write := func(name, content string) {
		t.Helper()
		must(t, os.MkdirAll(filepath.Dir(name), 0o755))
		must(t, os.WriteFile(name, []byte(content), 0o644))
	}
	find := func(folder string) []outside.Need {
		t.Helper()
		done := make(chan []outside.Need, 1)
		go func() { done <- outside.Find(folder) }()
		select {
		case n := <-done:
			return n
		case <-time.After(10 * time.Second):
			t.Fatal("it takes longer than ten seconds")
			return nil
		}
	}
	for name, content := range map[string]string{
		"empty": "", "binary": "gitdir: " + main + "\x00", "long": "gitdir: " + main + "/" + strings.Repeat("./", 1<<20), "no prefix": main, "only": "gitdir: ", "line": "gitdir: /x\ny", "proc": "gitdir: /proc/self/fd/0",
	} {
		write(dot, content)
		if n := find(evil); len(n) != 0 {
			t.Errorf("%s: %+v", name, n)
		}
	}
	// Another work tree's git directory, and the repository's own.
	for _, to := range []string{main, main + "/worktrees/wt"} {
		write(dot, "gitdir: "+to+"\n")
		if n := find(evil); len(n) != 1 || n[0].Confirmed {
			t.Errorf("%s: %+v, want it unconfirmed", to, n)
		}
	}
	must(t, os.Remove(dot))
	must(t, unix.Mkfifo(dot, 0o644))
	if n := find(evil); len(n) != 0 {
		t.Errorf("%+v", n)
	}
	// Pipes and links inside a git directory.
	must(t, os.Remove(dot))
	write(dot+"/HEAD", "ref: refs/heads/x\n")
	must(t, unix.Mkfifo(dot+"/commondir", 0o644))
	must(t, os.MkdirAll(dot+"/objects/info", 0o755))
	must(t, os.Symlink("/dev/zero", dot+"/objects/info/alternates"))
	if n := find(evil); len(n) != 0 {
		t.Errorf("%+v", n)
	}
	// Many object stores, each of which names all of them.
	var all bytes.Buffer
	for i := range 200 {
		p := filepath.Join(dir, "flood/many", strings.Repeat("d", i+1))
		must(t, os.MkdirAll(p+"/info", 0o755))
		all.WriteString("../../../../" + "flood/many/" + strings.Repeat("d", i+1) + "\n")
		must(t, os.Symlink(filepath.Join(dir, "flood/.git/objects/info/alternates"), p+"/info/alternates"))
	}
	all.WriteString(main + "/objects\n\"/x\\033[31m\"\n" + strings.Repeat("/nowhere\n", 5000))
	write(filepath.Join(dir, "flood/.git/objects/info/alternates"), all.String())
	if n := find(filepath.Join(dir, "flood")); len(n) > outside.MaxNeeds {
		t.Errorf("%d needs", len(n))
	}
	write(filepath.Join(dir, "loop/.git/objects/info/alternates"), filepath.Join(dir, "main/.git/objects")+"\n")
	write(main+"/objects/info/alternates", filepath.Join(dir, "loop/.git/objects")+"\n"+main+"/objects\n")
	if n := find(filepath.Join(dir, "loop")); len(n) != 1 {
		t.Errorf("%+v", n)
	}
}
