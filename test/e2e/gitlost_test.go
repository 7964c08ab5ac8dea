package e2e

import (
	"encoding/json"
	"strings"
	"testing"
)

// onlyThere: what the agent committed is fetched before detach and before the
// VM is deleted; what it did not commit is named, and nothing is lost unasked.
func (g *gitWorld) onlyThere(t *testing.T) {
	const commit = "git -c user.name=G -c user.email=g@x commit -q -m "
	late := g.there(`git switch -q -c late && echo x >late && git add late && ` + commit + `late && git rev-parse late && git switch -q main
echo kept >>a.txt && git -c user.name=G -c user.email=g@x stash push -q -m 'a stash' && echo mine >>a.txt && echo x >'un
tracked'
git init -q own && cd own && echo x >x && git add x && ` + commit + `x && cd .. && git worktree add -q --detach ../wt && cd ../wt && echo x >wt && git add wt && ` + commit + `wt`)
	named := []string{"a.txt", `un\ntracked`, "1 stash: On main: a stash", "in the repository own: 1 commit", "commits of a detached HEAD"}
	names := func(what string, r result, code int) {
		t.Helper()
		for _, n := range named {
			if !strings.Contains(r.stderr, n) {
				t.Errorf("%s does not name %q:\n%s", what, n, r.stderr)
			}
		}
		if r.code != code || strings.Contains(r.stderr, "rm -rf") {
			t.Errorf("%s: exit %d\n%s", what, r.code, r.stderr)
		}
	}
	refs := g.git("for-each-ref")
	dry := g.must("", "vm", "delete", g.vm, "--dry-run", "--json")
	var d struct {
		Clones []struct {
			Known bool
			Only  gitsyncOnly `json:"only_in_vm"`
		}
	}
	if err := json.Unmarshal([]byte(dry.stdout), &d); err != nil || len(d.Clones) != 1 || !d.Clones[0].Known {
		t.Fatalf("%v\n%s", err, dry.stdout)
	}
	if o := d.Clones[0].Only; len(o.Branches) != 1 || o.Branches[0] != "late" || len(o.Stashes) != 1 || len(o.Commits) != 1 || len(o.Inside) != 1 || len(o.Files) < 2 {
		t.Errorf("the dry run: %+v", o)
	}
	g.equal("the refs after a dry run", g.git("for-each-ref"), refs)

	names("detach", g.aivm(g.repo, "detach", "."), 3)
	g.equal("the branch nobody had fetched", g.git("rev-parse", "aivm-"+g.vm+"/late"), late)
	names("vm delete", g.aivm("", "vm", "delete", g.vm, "--yes"), 3)
	g.equal("the VM", strings.TrimSpace(domstate(g.vm)), "running")
	names("detach --yes", g.aivm(g.repo, "detach", ".", "--yes"), 0)
	g.equal("the configuration", readAll(t, g.repo+"/.git/config"), g.config)
	// The clone is still there, and still the only place of all that.
	names("vm delete after detach", g.aivm("", "vm", "delete", g.vm, "--yes"), 3)

	// A guest that floods, and names things to move the cursor: bounded, clean,
	// and no reason to delete it unasked.
	lie := `#!/bin/sh
case "$*" in
*status*) printf '?? \033[2Jred\0'; exec head -c 50000000 /dev/zero ;;
*for-each-ref*refs/heads*) ;;
*for-each-ref*) while :; do echo "1111111111111111111111111111111111111111 refs/x/$(printf '\033[31m')"; done ;;
esac
exec /usr/bin/git "$@"
`
	if r := g.ssh([]byte(lie), g.vm, "sudo -n tee /usr/local/bin/git >/dev/null && sudo -n chmod 755 /usr/local/bin/git"); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	if r := g.aivm("", "vm", "delete", g.vm, "--yes"); r.code != 3 || strings.Contains(r.stderr, "\x1b") || !strings.Contains(r.stderr, `\x1b[2Jred`) || len(r.stderr) > 20_000 {
		t.Errorf("%d bytes: %.2000s", len(r.stderr), r.stderr)
	}
	g.guest(g.vm, "sudo -n rm /usr/local/bin/git")
	g.there("git stash drop -q && git checkout -q a.txt && rm -rf un* own && git worktree remove --force ../wt")
}

// gitsyncOnly is the part of gitsync.Only that is looked at here.
type gitsyncOnly struct {
	Branches, Commits, Stashes []string
	Files, Inside              []struct{ Path string }
}

func (g *gitWorld) gone(t *testing.T) {
	// Again, and the clone that is there is taken. All it has is here, so it may
	// be removed; the new clone does not take the place of what was fetched.
	g.must(g.repo, "attach", ".", "--mode", "git", "--yes")
	theirs := g.commitThere("unmerged", "x")
	r := g.must(g.repo, "detach", ".")
	if !strings.Contains(r.stderr, "rm -rf") || !strings.Contains(r.stderr, g.dst) {
		t.Errorf("the clone that stays is not named: %+v", r)
	}
	g.equal("the configuration", readAll(t, g.repo+"/.git/config"), g.config)
	g.there("test -f a.txt && rm -rf ../my*")
	r = g.must(g.repo, "attach", ".", "--mode", "git", "--yes")
	g.equal("the new clone", g.git("rev-parse", "aivm-"+g.vm+"/main"), g.git("rev-parse", "main"))
	if ref := g.git("for-each-ref", "--format=%(refname)", "--contains", theirs, "refs/aivm"); ref == "" || !strings.Contains(r.stderr, ref) {
		t.Errorf("a commit that was fetched from the clone before is in no ref (%q): %s", ref, r.stderr)
	}
}

// deleted: what is only in the clone is fetched when the VM is deleted.
func (g *gitWorld) deleted(t *testing.T) {
	last := g.there("git switch -q -c last && git -c user.name=G -c user.email=g@x commit -q --allow-empty -m last && git rev-parse last")
	r := g.must("", "vm", "delete", g.vm, "--yes")
	if !strings.Contains(r.stderr, "fetched to refs/remotes/aivm-"+g.vm+"/: last") {
		t.Errorf("what was fetched is not named: %s", r.stderr)
	}
	g.equal("the last commit", g.git("rev-parse", "aivm-"+g.vm+"/last"), last)
	g.equal("the repository", g.git("fsck", "--full", "--strict"), "")
	g.equal("the configuration", readAll(t, g.repo+"/.git/config"), g.config)
	if r := g.must("", "list", "--json"); strings.Contains(r.stdout, g.repo) {
		t.Errorf("the record is left: %s", r.stdout)
	}
}
