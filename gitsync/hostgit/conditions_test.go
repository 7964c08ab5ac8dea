package hostgit

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"aivm.dev/aivm/gitsync/gittest"
)

// includes is a home directory whose git configuration includes a file in a folder that a guest can
// write, and repositories in every layout in which git finds them.
type includes struct {
	t          *testing.T
	home, work string // without links; HOME is a link to home
}

func newIncludes(t *testing.T) includes {
	t.Helper()
	dir := gittest.Real(t, t.TempDir())
	in := includes{t, filepath.Join(dir, "home"), filepath.Join(dir, "home/work")}
	gittest.Mkdir(t, in.work)
	if err := os.Symlink("home", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HOME", filepath.Join(dir, "link"))
	t.Setenv("GIT_CONFIG_NOSYSTEM", "1")
	gittest.WriteFile(t, filepath.Join(in.work, ".gitconfig"), "[alias]\n\tguest = x\n")
	in.when("gitdir:/none/")
	git := func(dir string, args ...string) {
		gittest.Git(t, filepath.Join(in.home, dir), os.Getenv("HOME"), args...)
	}
	git("", "init", "-q", "own/repo")
	git("own/repo", "commit", "-q", "--allow-empty", "-m", "x")
	git("own/repo", "worktree", "add", "-q", "../../tree")
	gittest.Mkdir(t, filepath.Join(in.home, "gits"))
	git("", "init", "-q", "--separate-git-dir", "gits/a", "apart")
	git("", "init", "-q", "linked")
	if err := os.Rename(filepath.Join(in.home, "linked/.git"), filepath.Join(in.home, "gits/b")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../gits/b", filepath.Join(in.home, "linked/.git")); err != nil {
		t.Fatal(err)
	}
	return in
}

// when sets the condition of the include.
func (in includes) when(condition string) {
	gittest.WriteFile(in.t, filepath.Join(in.home, ".gitconfig"), "[user]\n\tname = T\n\temail = t@example.org\n[includeIf \""+condition+"\"]\n\tpath = ~/work/.gitconfig\n")
}

// check reports whether aivm refuses the repository, and whether git, started the way aivm starts
// it, reads the included file.
func (in includes) check(repo string) (refused, read bool) {
	in.t.Helper()
	r, err := Find(filepath.Join(in.home, repo))
	if err != nil {
		in.t.Fatal(err)
	}
	if err := r.Guarded(map[string]string{in.work: "vm"}); err != nil {
		in.t.Fatal(err)
	}
	_, err = r.Git(context.Background(), "rev-parse", "--git-dir")
	if err != nil && !strings.Contains(err.Error(), "git reads "+os.Getenv("HOME")+"/work/.gitconfig") {
		in.t.Fatal(err)
	}
	b, _ := launch(context.Background(), Call{Repo: r, Args: []string{"config", "--get", "alias.guest"}}, nil)
	return err != nil, string(b) == "x\n"
}

// TestIncludeElsewhere checks that aivm does not refuse repositories to which an include cannot
// apply, and that git never reads the included file in a repository that was not refused.
func TestIncludeElsewhere(t *testing.T) {
	in := newIncludes(t)
	all := []string{"own/repo", "tree", "apart", "linked"}
	for condition, refused := range map[string][]string{
		"gitdir:~/work/":                   nil,
		"gitdir:" + in.work + "/":          nil,
		"gitdir:~/wor/":                    nil,
		"gitdir:/none/":                    nil,
		"gitdir:~/own/":                    {"own/repo", "tree"},
		"gitdir:" + in.home + "/own/":      {"own/repo", "tree"},
		"gitdir:~/own/repo/":               {"own/repo", "tree"},
		"gitdir:~/own/repo/.git/modules/":  {"own/repo", "tree"},
		"gitdir:~/tree/":                   {"tree"},
		"gitdir:~/gits/":                   {"apart", "linked"},
		"gitdir:~/gits/a/":                 {"apart"},
		"gitdir:~/linked/":                 {"linked"},
		"gitdir:~/":                        all,
		"gitdir:/":                         all,
		"gitdir:~/work":                    all,
		"gitdir:~/*/":                      all,
		"gitdir:~/wor[k]/":                 all,
		"gitdir:~/work/../own/":            all,
		"gitdir:~//work/":                  all,
		"gitdir:work/":                     all,
		"gitdir:./work/":                   all,
		"gitdir:~root/":                    all,
		"gitdir/i:~/WORK/":                 all,
		"onbranch:none":                    all,
		"hasconfig:remote.*.url:**/none/*": all,
		"other:~/work/":                    all,
	} {
		in.when(condition)
		for _, repo := range all {
			was, read := in.check(repo)
			if want := slices.Contains(refused, repo); was != want || read && !was {
				t.Errorf("%s in %s: refused: %v, want %v; git reads it: %v", condition, repo, was, want, read)
			}
		}
	}
	// An include of the same file without a condition is read by git.
	in.when("gitdir:~/work/")
	gittest.WriteFile(t, filepath.Join(in.home, ".gitconfig"), gittest.ReadFile(t, filepath.Join(in.home, ".gitconfig"))+"[include]\n\tpath = ~/work/.gitconfig\n")
	if refused, read := in.check("own/repo"); !refused || !read {
		t.Errorf("with an unconditional include: refused: %v, git reads it: %v", refused, read)
	}
}

// TestIncludeByWorkingDirectory checks that a guest's link to the repository does not make aivm's
// git take the repository for one in the guest's folder, although the user's own git does when it
// is started there.
func TestIncludeByWorkingDirectory(t *testing.T) {
	in := newIncludes(t)
	in.when("gitdir:~/work/")
	if err := os.Symlink("../own/repo", filepath.Join(in.work, "in")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PWD", filepath.Join(in.work, "in"))
	own := exec.Command("git", "config", "--get", "alias.guest")
	own.Dir, own.Env = filepath.Join(in.work, "in"), os.Environ()
	if b, _ := own.Output(); string(b) != "x\n" {
		t.Errorf("git in that folder reads %q", b)
	}
	if refused, read := in.check("own/repo"); refused || read {
		t.Errorf("refused: %v, git reads it: %v", refused, read)
	}
	t.Setenv("HOME", filepath.Join(in.home, "wild*"))
	gittest.Mkdir(t, filepath.Join(in.home, "wild*/x"))
	if (Repo{Top: in.home + "/own/repo", GitDir: in.home + "/own/repo/.git", CommonDir: in.home + "/own/repo/.git"}).includeNeverApplies("gitdir:~/x/") {
		t.Error("a wildcard in the home's path counts as a literal character")
	}
}
