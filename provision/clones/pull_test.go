package clones

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"aivm.dev/aivm/provision/loop"

	"aivm.dev/aivm/gitsync"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/loop/looptest"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/target"
)

// TestPullAgrees: files that the host obeys need consent, and filters run only for the token of the
// list they were on.
func TestPullAgrees(t *testing.T) {
	w := looptest.New(t)
	t.Setenv("HOME", w.MakeFolder("home"))
	t.Setenv("XDG_CONFIG_HOME", "")
	repo := w.MakeFolder("repo")
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
	remoteTip := git("rev-parse", "HEAD")
	git("update-ref", "refs/remotes/aivm-t/main", remoteTip)
	git("reset", "-q", "--hard", from)
	git("config", "filter.up.smudge", "tr a-z A-Z")
	var got GitResult
	pull := func(ap plan.Approval, o Options) (string, error) {
		t.Helper()
		w.Out.Reset()
		w.Err.Reset()
		w.Approval, w.Timing = ap, ui.NewTiming("share")
		r, err := gitsync.Find(repo)
		if err != nil {
			t.Fatal(err)
		}
		h, err := gitsync.Observe(t.Context(), r, "aivm-t")
		if err != nil {
			t.Fatal(err)
		}
		wt := &target.Target{Name: "t", Folder: &share.Attachment{HostPath: repo, VM: "t", Mode: share.Git, Tag: "x"}}
		wt = wt.WithClone(target.Clone{Repo: r})
		f := &loop.Facts{Progress: loop.NewProgress(wt)}
		f.Clone.Remote, f.Clone.Host, f.Clone.Guest = gitsync.Remote{Name: "aivm-t"}, plan.Yes(h), gitsync.Guest{State: gitsync.Clone, Heads: map[string]string{"main": remoteTip}}
		got, err = For(w.Loop).fastForward(t.Context(), wt, f, o)
		return w.Err.String(), err
	}
	stderr, err := pull(plan.Approval{}, Options{})
	list := regexp.MustCompile(`--run-filters ([0-9a-f]{16})`).FindStringSubmatch(stderr)
	if err == nil || !strings.Contains(stderr, "may run or obey them: .gitattributes") || !strings.Contains(stderr, `would run "tr a-z A-Z" (filter up, set in `+repo+`/.git/config) on 1 file: b.up`) || list == nil {
		t.Fatalf("%v\n%s", err, stderr)
	}
	var ue *ui.Error
	if _, err := pull(plan.Approval{Yes: true}, Options{RunFilters: "0000000000000000"}); !errors.As(err, &ue) || !strings.Contains(err.Error(), "another list") || !strings.Contains(strings.Join(ue.HintLines(), ""), list[1]) {
		t.Errorf("another list: %v", err)
	}
	if at := git("rev-parse", "main"); at != from {
		t.Fatalf("it was pulled: %s", at)
	}
	stderr, err = pull(plan.Approval{Yes: true}, Options{})
	if b, _ := os.ReadFile(filepath.Join(repo, "b.up")); err != nil || string(b) != "word" || len(got.Filters) != 1 || got.FiltersRan || len(got.ManualCommands) != 1 {
		t.Errorf("%v %q\n%s", err, b, stderr)
	}
	for _, l := range got.ManualCommands {
		if b, err := exec.Command("sh", "-c", l).CombinedOutput(); err != nil {
			t.Errorf("%s: %v %s", l, err, b)
		}
	}
	if b, _ := os.ReadFile(filepath.Join(repo, "b.up")); string(b) != "WORD" {
		t.Errorf("after the manual commands: %q", b)
	}
	git("-c", "filter.up.smudge=", "reset", "-q", "--hard", from)
	stderr, err = pull(plan.Approval{}, Options{RunFilters: list[1]})
	if b, _ := os.ReadFile(filepath.Join(repo, "b.up")); err != nil || string(b) != "WORD" || len(got.RanFilters) != 1 || len(got.RanFilters[0].Files) != 1 {
		t.Errorf("agreed: %v %q\n%s", err, b, stderr)
	}
	// A guest could write to the folder by the time the user confirmed.
	git("-c", "filter.up.smudge=", "reset", "-q", "--hard", from)
	w.WriteConfig(w.MakeFolder("repo/sub"))
	if _, err := pull(plan.Approval{Yes: true}, Options{}); err == nil || !strings.Contains(err.Error(), "git mode is refused") {
		t.Errorf("a guest can write now: %v", err)
	}
}
