package clones

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"aivm.dev/aivm/gitsync/clonetest"
	"aivm.dev/aivm/gitsync/gittest"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/loop/looptest"
	"aivm.dev/aivm/provision/share"
	"aivm.dev/aivm/provision/target"
)

// TestRefusedIsNotDone: the progress line of a transfer that was refused, and of one that turned out to
// be unnecessary, does not say "done". aivm git ends with the refusal, code continues.
func TestRefusedIsNotDone(t *testing.T) {
	for name, k := range map[string]struct {
		before  func(p *clonetest.Pair)
		lines   string // of the progress, without the times
		refused string // the error of aivm git push
	}{
		"pushed": {func(p *clonetest.Pair) { p.CommitH("b", "2") }, "push branch main to VM vm: done", ""},
		"diverged": {
			func(p *clonetest.Pair) { p.CommitH("b", "2"); p.CommitG("c", "3") },
			"fetch commits from VM vm: done; push branch main to VM vm: refused", "has diverged",
		},
		"the VM is ahead": {func(p *clonetest.Pair) { p.CommitG("c", "3") }, "fetch commits from VM vm: done; push branch main to VM vm: nothing to do", ""},
		"uncommitted files in the VM": {func(p *clonetest.Pair) {
			p.CommitH("a.txt", "2")
			gittest.WriteFile(p.T, filepath.Join(p.Guest, "a.txt"), "3")
		}, "push branch main to VM vm: refused", "working tree is not clean: a.txt"},
		"a ref that is locked in the VM": {func(p *clonetest.Pair) {
			p.CommitH("b", "2")
			gittest.WriteFile(p.T, filepath.Join(p.Guest, ".git/refs/heads/main.lock"), "")
		}, "push branch main to VM vm: failed", "changed while it was pushed to"},
		"another branch, with files in the way": {func(p *clonetest.Pair) {
			p.GitH("switch", "-q", "-c", "next")
			p.CommitH("a.txt", "2")
			gittest.WriteFile(p.T, filepath.Join(p.Guest, "a.txt"), "3")
		}, "push branch next to VM vm: done; check out branch next in VM vm: refused", ""},
		"only a branch whose name clashes": {func(p *clonetest.Pair) {
			p.GitG("branch", "x")
			p.Sync()
			p.GitG("branch", "-D", "x")
			p.GitG("branch", "x/y")
		}, "fetch commits from VM vm: refused", "only on branches that were left out: x/y"},
	} {
		for _, strict := range []bool{true, false} {
			t.Run(name+map[bool]string{true: ", aivm git", false: ", code"}[strict], func(t *testing.T) {
				p := clonetest.New(t)
				p.CommitH("a.txt", "1")
				p.Sync()
				k.before(p)
				h, g := p.Observe()
				world := looptest.New(t)
				world.Timing = ui.NewTiming("share")
				w := &target.Target{Name: "vm", Folder: &share.Attachment{HostPath: p.Host, VM: "vm", Mode: share.Git, GuestDst: p.Guest, Tag: "x"}}
				w = w.WithClone(target.Clone{Repo: h.Repo, Push: true, Fetch: true, Strict: strict})
				f := &loop.Facts{Conn: p.Peer.Conn, Progress: loop.NewProgress(w)}
				f.Clone.Remote, f.Clone.Host, f.Clone.Guest = p.Remote, plan.Yes(*h), *g
				err := For(world.Loop).transfer(t.Context(), w, f)
				var ends []string
				for _, l := range strings.Split(world.Err.String(), "\n") {
					if i := strings.LastIndex(l, " ("); strings.HasSuffix(l, " s)") {
						ends = append(ends, l[:i])
					}
				}
				if got := strings.Join(ends, "; "); got != k.lines {
					t.Errorf("progress %q\nwant %q", got, k.lines)
				}
				problem := ProblemOf(w, f)
				kind := "refused"
				if strings.HasSuffix(k.lines, "failed") {
					kind = "failed"
				}
				var ue *ui.Error
				switch {
				case k.refused == "" && (err != nil || problem != nil):
					t.Errorf("%v %v", err, problem)
				case k.refused == "":
				case strict && (!errors.As(err, &ue) || ue.Kind != kind || !strings.Contains(err.Error(), k.refused)):
					t.Errorf("%v, want %s: %s", err, kind, k.refused)
				case !strict && err != nil:
					t.Errorf("code ends: %v", err)
				case !strict && !strings.Contains(k.refused, "left out") && (problem == nil || problem.Kind != kind || !strings.Contains(problem.Message, k.refused) || len(problem.Hints) == 0):
					t.Errorf("the problem in JSON: %+v, want %s: %s", problem, kind, k.refused)
				case !strict && !strings.Contains(world.Err.String(), "warning: "):
					t.Errorf("no warning: %s", world.Err.String())
				}
				_ = os.Remove(filepath.Join(p.Guest, ".git/refs/heads/main.lock"))
			})
		}
	}
}
