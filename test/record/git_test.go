package record

import (
	"os"
	"os/exec"
)

// git runs git as the user, with a fixed time.
func (w *world) git(dir string, args ...string) {
	w.t.Helper()
	program, err := lookReal("git")
	w.must(err)
	c := exec.Command(program, args...)
	c.Dir = dir
	c.Env = []string{
		"HOME=" + homeDir, "PATH=" + realPath, "GIT_CONFIG_NOSYSTEM=1", "TZ=UTC", "LC_ALL=C.UTF-8",
		"GIT_AUTHOR_DATE=2027-03-01T11:00:00Z", "GIT_COMMITTER_DATE=2027-03-01T11:00:00Z",
	}
	if out, err := c.CombinedOutput(); err != nil {
		w.t.Fatalf("git %q: %v\n%s", args, err, out)
	}
}

// repo makes the folder a repository with one commit.
func repo(w *world) {
	proj(w)
	w.git(projDir, "init", "-q", "-b", "main")
	w.git(projDir, "config", "user.name", "Person")
	w.git(projDir, "config", "user.email", "person@example.org")
	w.git(projDir, "add", ".")
	w.git(projDir, "commit", "-q", "-m", "first")
}

func committed(w *world) {
	w.write(projDir+"/new.go", "package main // new\n", 0o644)
	w.git(projDir, "add", ".")
	w.git(projDir, "commit", "-q", "-m", "second")
}

func tagged(w *world) { w.git(projDir, "tag", "v1") }

func uncommitted(w *world) {
	w.write(projDir+"/main.go", "package main // changed\n", 0o644)
	w.write(projDir+"/untracked.txt", "untracked\n", 0o644)
}

func branched(w *world) { w.git(projDir, "checkout", "-q", "-b", "topic") }

// cloned has the repository attached to box in git mode.
var cloned = all(repo, created, ran("attach . --yes --mode git"))

const clone = guestHome + "/proj"

// guestCommitted adds a commit to the clone.
func guestCommitted(w *world) {
	w.write(clone+"/guest.go", "package main // by an agent\n", 0o644)
	w.git(clone, "add", ".")
	w.git(clone, "-c", "user.name=Agent", "-c", "user.email=agent@example.org", "commit", "-q", "-m", "by an agent")
}

func guestBranch(w *world) {
	w.git(clone, "checkout", "-q", "-b", "experiment")
	guestCommitted(w)
	w.git(clone, "checkout", "-q", "main")
}

func guestDirty(w *world) { w.write(clone+"/main.go", "package main // dirty\n", 0o644) }

// guestHostExecuted commits a host-executed file in the clone.
func guestHostExecuted(w *world) {
	w.write(clone+"/.envrc", "export A=1\n", 0o644)
	guestCommitted(w)
}

func guestRewrote(w *world) {
	w.git(clone, "-c", "user.name=Agent", "-c", "user.email=agent@example.org", "commit", "-q", "--amend", "-m", "rewritten")
}

func cloneGone(w *world) {
	w.must(os.RemoveAll(clone))
}

// guestPathNotEmpty has other files at the guest path of the clone.
func guestPathNotEmpty(w *world) { w.write(clone+"/file", "not a clone\n", 0o644) }

var gitRows = []row{
	{"git-attach", all(repo, created), "attach . --yes --mode git", true},
	{"git-attach-off", all(repo, created, off), "attach . --yes --mode git", true},
	{"git-attach-uncommitted", all(repo, uncommitted, created), "attach . --yes --mode git", true},
	{"git-attach-no-repo", all(proj, created), "attach . --yes --mode git", true},
	{"git-attach-in-the-way", all(repo, created, guestPathNotEmpty), "attach . --yes --mode git", true},
	{"git-attach-tag", all(repo, tagged, created), "attach . --yes --mode git --guest-dst /home/agent/elsewhere", true},
	{"git-code-fresh", repo, "code . --yes --mode git --image " + imageFile, true},
	{"git-code-warm", all(cloned, ran("code .")), "code .", true},
	{"git-code-new-commit", all(cloned, committed), "code .", true},
	{"git-code-clone-gone", all(cloned, cloneGone), "code .", true},
	{"git-push", all(cloned, committed), "git push", true},
	{"git-push-nothing", cloned, "git push", true},
	{"git-push-branch", all(cloned, branched, committed), "git push", true},
	{"git-push-uncommitted", all(cloned, committed, uncommitted), "git push --include-uncommitted", true},
	{"git-push-dirty-guest", all(cloned, committed, guestDirty), "git push", true},
	{"git-push-diverged", all(cloned, committed, guestCommitted), "git push", true},
	{"git-push-off", all(cloned, committed, off), "git push", true},
	{"git-push-not-git", attached, "git push", true},
	{"git-fetch", all(cloned, guestCommitted), "git fetch", false},
	{"git-fetch-branch", all(cloned, guestBranch), "git fetch", false},
	{"git-fetch-nothing", cloned, "git fetch", false},
	{"git-fetch-rewritten", all(cloned, ran("git fetch"), guestRewrote), "git fetch", false},
	{"git-fetch-off", all(cloned, off), "git fetch", false},
	{"git-pull", all(cloned, guestCommitted), "git pull", true},
	{"git-pull-diverged", all(cloned, committed, guestCommitted), "git pull", true},
	{"git-pull-obeyed", all(cloned, guestHostExecuted), "git pull", true},
	{"git-pull-dirty-here", all(cloned, guestCommitted, uncommitted), "git pull", true},
	{"git-status", all(cloned, committed, guestBranch), "git status", false},
	{"git-status-json", all(cloned, guestCommitted), "git status --json", false},
	{"git-status-off", all(cloned, ran("git fetch"), off), "git status", false},
	{"git-diff", all(cloned, guestCommitted), "git diff", false},
	{"git-diff-stat", all(cloned, guestCommitted), "git diff --stat", false},
	{"git-log", all(cloned, guestCommitted), "git log", false},
	{"git-detach", cloned, "detach . --yes", true},
	{"git-detach-work-left", all(cloned, guestCommitted), "detach . --yes", true},
	{"git-vm-delete", cloned, "vm delete box --yes", true},
	{"git-vm-delete-work-left", all(cloned, guestCommitted, guestDirty), "vm delete box --yes", true},
	{"git-vm-delete-discard", all(cloned, guestCommitted), "vm delete box --yes --discard-work", true},
	{"git-vm-delete-off", all(cloned, guestCommitted, off), "vm delete box --yes", true},
}
