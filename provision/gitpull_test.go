package provision

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"aivm.dev/aivm/gitsync"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/share"
)

// TestPullAgrees: files that this machine obeys are asked about, and filters
// run only for who repeats the name of the list that they were on.
func TestPullAgrees(t *testing.T) {
	w := newWorld(t)
	t.Setenv("HOME", w.folder("home"))
	t.Setenv("XDG_CONFIG_HOME", "")
	repo := w.folder("repo")
	git := func(args ...string) string {
		t.Helper()
		c := exec.Command("git", append([]string{"-C", repo, "-c", "user.name=T", "-c", "user.email=t@example.org"}, args...)...)
		c.Env = []string{"HOME=" + os.Getenv("HOME"), "PATH=" + os.Getenv("PATH"), "GIT_CONFIG_NOSYSTEM=1"}
		b, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, b)
		}
		return strings.TrimSpace(string(b))
	}
	put := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(repo, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	git("init", "-q", "-b", "main")
	put("a", "a")
	git("add", "-A")
	git("commit", "-q", "-m", "one")
	from := git("rev-parse", "HEAD")
	put(".gitattributes", "*.up filter=up\n")
	put("b.up", "word")
	git("add", "-A")
	git("commit", "-q", "-m", "two")
	theirs := git("rev-parse", "HEAD")
	git("update-ref", "refs/remotes/aivm-t/main", theirs)
	git("reset", "-q", "--hard", from)
	git("config", "filter.up.smudge", "tr a-z A-Z")
	pull := func(ap plan.Approval, o GitOptions) (string, error) {
		t.Helper()
		w.out.Reset()
		w.err.Reset()
		w.Approval, w.timing = ap, ui.NewTiming("share")
		r, err := gitsync.Find(repo)
		if err != nil {
			t.Fatal(err)
		}
		h, err := gitsync.Observe(t.Context(), r, "aivm-t")
		if err != nil {
			t.Fatal(err)
		}
		wt := &want{name: "t", folder: &share.Attachment{HostPath: repo, VM: "t", Mode: share.Git, Tag: "x"}}
		wt.git = &gitWant{repo: r, remote: gitsync.Remote{Name: "aivm-t"}, host: plan.Yes(h), guest: gitsync.Guest{State: gitsync.Clone, Heads: map[string]string{"main": theirs}}}
		err = w.takeOver(t.Context(), wt, o)
		return w.err.String(), err
	}
	said, err := pull(plan.Approval{}, GitOptions{})
	list := regexp.MustCompile(`--run-filters ([0-9a-f]{16})`).FindStringSubmatch(said)
	if err == nil || !strings.Contains(said, "may run or obey them: .gitattributes") || !strings.Contains(said, `would run "tr a-z A-Z" (filter up, set in `+repo+`/.git/config) on 1 file: b.up`) || list == nil {
		t.Fatalf("%v\n%s", err, said)
	}
	var ue *ui.Error
	if _, err := pull(plan.Approval{Yes: true}, GitOptions{RunFilters: "0000000000000000"}); !errors.As(err, &ue) || !strings.Contains(err.Error(), "another list") || !strings.Contains(strings.Join(ue.Hints, ""), list[1]) {
		t.Errorf("another list: %v", err)
	}
	if at := git("rev-parse", "main"); at != from {
		t.Fatalf("it was pulled: %s", at)
	}
	said, err = pull(plan.Approval{Yes: true}, GitOptions{})
	if b, _ := os.ReadFile(filepath.Join(repo, "b.up")); err != nil || string(b) != "word" || !strings.Contains(said, "without the filter up, which was not run") {
		t.Errorf("%v %q\n%s", err, b, said)
	}
	// The lines that it printed.
	for _, l := range strings.Split(said, "\n") {
		if strings.HasPrefix(strings.TrimSpace(l), "git -C") {
			if b, err := exec.Command("sh", "-c", l).CombinedOutput(); err != nil {
				t.Errorf("%s: %v %s", l, err, b)
			}
		}
	}
	if b, _ := os.ReadFile(filepath.Join(repo, "b.up")); string(b) != "WORD" {
		t.Errorf("finished by hand: %q", b)
	}
	git("-c", "filter.up.smudge=", "reset", "-q", "--hard", from)
	said, err = pull(plan.Approval{}, GitOptions{RunFilters: list[1]})
	if b, _ := os.ReadFile(filepath.Join(repo, "b.up")); err != nil || string(b) != "WORD" || !strings.Contains(said, "The filter up ran on 1 file, as agreed") {
		t.Errorf("agreed: %v %q\n%s", err, b, said)
	}
	// A folder that became writable for a guest while somebody thought about it.
	git("-c", "filter.up.smudge=", "reset", "-q", "--hard", from)
	w.records(w.folder("repo/sub"))
	if _, err := pull(plan.Approval{Yes: true}, GitOptions{}); err == nil || !strings.Contains(err.Error(), "git mode is refused") {
		t.Errorf("a guest can write now: %v", err)
	}
}
