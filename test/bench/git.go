package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// twins are two repositories with the same history, each with a clone in the VM: aivm pushes to
// one, plain git to the other.
type twins struct {
	w                   *world
	aivmRepo, plainRepo string
	next                int // number of commits so far
}

// measureGit compares pushes with those of plain git over the alias, and a warm run of a folder in
// git mode with a login.
func (b *bench) measureGit(w *world) error {
	for _, k := range []struct {
		name            string
		before, commits int
		pairs           int
	}{
		{"push of 1,000 small commits", 1, 1000, max(1, b.warm/3)},
		{"push of one commit onto 20,000 objects", 5000, 1, b.warm},
	} {
		t, err := b.newTwins(w, k.before)
		if err != nil {
			return err
		}
		b.say("%s beside `git push`, %d pairs", k.name, k.pairs)
		var p pairs
		for range k.pairs {
			if err := t.grow(k.commits); err != nil {
				return err
			}
			if err := p.take(t.push, t.gitPush); err != nil {
				return err
			}
		}
		r := p.ratio()
		b.table.add(figure{
			fmt.Sprintf("%s, median of %d pairs", k.name, k.pairs), seconds(median(p.aivm)),
			"git push " + seconds(median(p.reference)), ratio(r), "<= 1.2", "",
		}, r <= 1.2)
		if k.commits == 1 {
			if err := b.measureWarmGit(w, t.aivmRepo); err != nil {
				return err
			}
		}
		if _, _, err := w.aivm(b.ctx, t.aivmRepo, "detach", "."); err != nil {
			return err
		}
		if _, _, err := w.login("rm -rf bench-aivm bench-plain"); err != nil {
			return err
		}
	}
	return nil
}

// newTwins creates both repositories with the same number of commits, three objects each, and their
// clones.
func (b *bench) newTwins(w *world, commits int) (*twins, error) {
	dir, err := os.MkdirTemp(w.home, "twins-")
	if err != nil {
		return nil, err
	}
	t := &twins{w: w, aivmRepo: filepath.Join(dir, "aivm"), plainRepo: filepath.Join(dir, "plain")}
	for _, r := range []string{t.aivmRepo, t.plainRepo} {
		if _, err := w.git(w.home, "init", "-q", "-b", "main", r); err != nil {
			return nil, err
		}
	}
	if err := t.grow(commits); err != nil {
		return nil, err
	}
	if _, _, err := w.aivm(b.ctx, t.aivmRepo, "attach", ".", "--mode", "git", "--guest-dst", "/home/agent/bench-aivm", "--yes"); err != nil {
		return nil, err
	}
	if _, _, err := w.login("git init -q bench-plain && cd bench-plain && git symbolic-ref HEAD refs/heads/main && git config receive.denyCurrentBranch updateInstead"); err != nil {
		return nil, err
	}
	if _, err := w.git(t.plainRepo, "remote", "add", "vm", w.vm+":/home/agent/bench-plain"); err != nil {
		return nil, err
	}
	_, err = t.gitPush()
	return t, err
}

// grow adds n small commits to both repositories, each with one new file in one of thirty
// directories.
func (t *twins) grow(n int) error {
	var s strings.Builder
	for i := range n {
		t.next++
		text := fmt.Sprintf("file %d\n", t.next)
		fmt.Fprintf(&s, "commit refs/heads/main\ncommitter B <b@example.org> %d +0000\ndata %d\n%s", 1700000000+t.next, len(text), text)
		if i == 0 && t.next > 1 {
			s.WriteString("from refs/heads/main^0\n")
		}
		fmt.Fprintf(&s, "M 644 inline d%d/f%d\ndata %d\n%s\n", t.next%30, t.next%300, len(text), text)
	}
	for _, r := range []string{t.aivmRepo, t.plainRepo} {
		c := t.w.command(t.w.b.ctx, r, nil, "git", "fast-import", "--quiet")
		c.Stdin = strings.NewReader(s.String())
		if out, err := c.CombinedOutput(); err != nil {
			return failed(c.Args, err, out)
		}
		if _, err := t.w.git(r, "reset", "-q", "--hard", "main"); err != nil {
			return err
		}
	}
	return nil
}

func (t *twins) push() (time.Duration, error) {
	out, d, err := t.w.aivm(t.w.b.ctx, t.aivmRepo, "git", "push", "--json")
	if err != nil {
		return 0, err
	}
	var res struct{ Pushed []string }
	if err := json.Unmarshal([]byte(out), &res); err != nil {
		return 0, err
	}
	return d, nilIf(len(res.Pushed) == 1, "nothing was pushed: "+out)
}

func (t *twins) gitPush() (time.Duration, error) {
	began := time.Now()
	_, err := t.w.git(t.plainRepo, "push", "-q", "vm", "main")
	return time.Since(began), err
}

// git runs plain git over the alias, as a user with this home would.
func (w *world) git(dir string, args ...string) (string, error) {
	out, _, err := w.run(w.b.ctx, dir, []string{"GIT_SSH_COMMAND=ssh -F " + filepath.Join(w.home, ".ssh/config")}, append([]string{"git"}, args...)...)
	return out, err
}

// measureWarmGit compares a warm `code .` of a folder in git mode with a login.
func (b *bench) measureWarmGit(w *world, folder string) error {
	run := func() (time.Duration, error) {
		_, d, err := w.run(b.ctx, folder, quick, w.program("aivm"), "code", ".", "--json")
		return d, err
	}
	if _, err := run(); err != nil {
		return err
	}
	b.say("warm `code .` in git mode beside `ssh %s true`, %d pairs", w.vm, b.warm)
	var p pairs
	for range b.warm {
		err := p.take(run, func() (time.Duration, error) {
			_, d, err := w.login("true")
			return d, err
		})
		if err != nil {
			return err
		}
	}
	r := p.ratio()
	b.table.add(figure{
		fmt.Sprintf("warm code, git mode, median of %d pairs", b.warm), seconds(median(p.aivm)), "ssh true " + seconds(median(p.reference)), ratio(r), "<= 1.4", "",
	}, r <= 1.4)
	before, err := w.logins()
	if err != nil {
		return err
	}
	if _, err := run(); err != nil {
		return err
	}
	after, err := w.logins()
	if err != nil {
		return err
	}
	n := after - before - 1
	b.table.add(figure{name: "  logins in the guest's log", value: fmt.Sprint(n), limit: "1"}, n == 1)
	return nil
}
