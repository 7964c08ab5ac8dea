package e2e

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
)

// onlyInVM tests what exists only in the clone: detach and vm delete fetch its commits, name
// uncommitted files, stashes and other repositories, and delete nothing without consent.
func (g *gitWorld) onlyInVM(t *testing.T) {
	const commit = "git -c user.name=G -c user.email=g@x commit -q -m "
	late := g.inClone(`git switch -q -c late && echo x >late && git add late && ` + commit + `late && git rev-parse late && git switch -q main
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
		if r.code != code || strings.Contains(r.stderr, "-delete") {
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
		t.Errorf("vm delete --dry-run --json: only_in_vm is %+v", o)
	}
	g.equal("the refs after a dry run", g.git("for-each-ref"), refs)

	names("detach", g.aivm(g.repo, "detach", "."), 3)
	g.equal("the branch that detach fetched", g.git("rev-parse", "aivm-"+g.vm+"/late"), late)
	names("vm delete", g.aivm("", "vm", "delete", g.vm, "--yes"), 3)
	g.equal("the VM's state", strings.TrimSpace(domstate(g.vm)), "running")
	names("detach --yes", g.aivm(g.repo, "detach", ".", "--yes"), 0)
	g.equal(".git/config", readAll(t, g.repo+"/.git/config"), g.config)
	// The clone still exists, and it is still the only place with these files and commits.
	names("vm delete after detach", g.aivm("", "vm", "delete", g.vm, "--yes"), 3)

	// A guest whose git prints endlessly and uses escape sequences in names: aivm prints a limited,
	// escaped text and still refuses to delete the VM.
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
	g.inClone("git stash drop -q && git checkout -q a.txt && rm -rf un* own && git worktree remove --force ../wt")
}

// gitsyncOnly is the part of gitsync.Only that onlyInVM checks.
type gitsyncOnly struct {
	Branches, Commits, Stashes []string
	Files, Inside              []struct{ Path string }
}

// detached tests attaching an existing clone again, detach, and a new clone, which must not replace
// what was fetched from the previous one.
func (g *gitWorld) detached(t *testing.T) {
	// The existing clone is used. The host has everything that it contains, so it may be removed.
	g.must(g.repo, "attach", ".", "--mode", "git", "--yes")
	guestCommit := g.commitInClone("unmerged", "x")
	// A folder is attached inside the clone: the command that removes the clone keeps its files.
	inside := filepath.Join(g.home, "inside")
	write(t, filepath.Join(inside, "kept"), "x\n", 0o644)
	g.must(inside, "attach", ".", "--vm", g.vm, "--yes", "--guest-dst", g.dst+"/inside")
	g.inClone("echo inside >>.git/info/exclude")
	r := g.must(g.repo, "detach", ".")
	_, command, ok := strings.Cut(r.stderr, "stays; to remove it: ")
	command, _, _ = strings.Cut(command, "\n")
	if !ok || !strings.HasPrefix(command, "ssh -F "+g.home+"/.config/aivm/ssh/"+g.vm+".conf "+g.vm+" ") {
		t.Fatalf("detach does not print how to remove the clone: %+v", r)
	}
	g.equal(".git/config", readAll(t, g.repo+"/.git/config"), g.config)
	g.inClone("test -f a.txt && test -f inside/kept")
	g.run("", nil, nil, "sh", "-c", command) // ends with an error, because of the folder
	g.equal("the folder inside the clone", read(t, filepath.Join(inside, "kept")), "x\n")
	g.guest(g.vm, "! test -e "+q(g.dst)+"/.git && test -f "+q(g.dst)+"/inside/kept")
	g.must(inside, "detach", ".")
	if r := g.run("", nil, nil, "sh", "-c", command); r.code != 0 {
		t.Errorf("removing the clone: %+v", r)
	}
	r = g.must(g.repo, "attach", ".", "--mode", "git", "--yes")
	g.equal("the new clone", g.git("rev-parse", "aivm-"+g.vm+"/main"), g.git("rev-parse", "main"))
	if ref := g.git("for-each-ref", "--format=%(refname)", "--contains", guestCommit, "refs/aivm"); ref == "" || !strings.Contains(r.stderr, ref) {
		t.Errorf("a commit fetched from the previous clone is in no ref (%q): %s", ref, r.stderr)
	}
}

// deleted tests that vm delete fetches commits that only the clone has.
func (g *gitWorld) deleted(t *testing.T) {
	last := g.inClone("git switch -q -c last && git -c user.name=G -c user.email=g@x commit -q --allow-empty -m last && git rev-parse last")
	r := g.must("", "vm", "delete", g.vm, "--yes")
	if !strings.Contains(r.stderr, "fetched to refs/remotes/aivm-"+g.vm+"/: last") {
		t.Errorf("vm delete does not name the fetched branch: %s", r.stderr)
	}
	g.equal("the last commit", g.git("rev-parse", "aivm-"+g.vm+"/last"), last)
	g.equal("git fsck", g.git("fsck", "--full", "--strict"), "")
	g.equal(".git/config", readAll(t, g.repo+"/.git/config"), g.config)
	if r := g.must("", "list", "--json"); strings.Contains(r.stdout, g.repo) {
		t.Errorf("the folder is still recorded: %s", r.stdout)
	}
}
