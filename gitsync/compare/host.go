package compare

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/gitsync/hostgit"
	"aivm.dev/aivm/internal/ui"
)

// Host is the observed state of the repository on the host.
type Host struct {
	Repo    hostgit.Repo
	Remote  string // the remote of the guest's clone
	Format  string // of object names: "sha1" or "sha256"
	Shallow bool
	Partial bool // a partial clone: objects may be missing
	Branch  string
	Head    string // the commit of Branch
	// NoBranch means that no branch that can be pushed is checked out, as in a rebase or a bisect.
	// Head, Tags, Ahead and Behind are not set then.
	NoBranch bool
	Tags     map[string]string // full ref name -> object, those that Branch contains
	Tracked  map[string]string // branch of the guest -> the commit last fetched or pushed
	Heads    map[string]string // the host's own branches
	Ahead    int               // commits of Branch that Tracked[Branch] lacks
	Behind   int               // commits of Tracked[Branch] that Branch lacks; both are 0 if it is not tracked
	Borrows  bool              // objects/info/alternates names other object stores
}

// Observe reads the state of the repository. It changes nothing. remote may have no section yet. If
// there is no branch to push, it returns an error and what it could read.
func Observe(ctx context.Context, r hostgit.Repo, remote string) (Host, error) {
	h := Host{Repo: r, Remote: remote, Tags: map[string]string{}, Tracked: map[string]string{}, Heads: map[string]string{}}
	b, err := r.Git(ctx, "rev-parse", "--show-object-format", "--is-shallow-repository", "--is-inside-work-tree", "--show-toplevel", "--absolute-git-dir")
	if err != nil {
		return h, hostgit.ReadError(r, err)
	}
	l := hostgit.Lines(b)
	if len(l) != 5 {
		return h, ui.Refused("the repository of %s cannot be used: its path contains a line break, or git is too old", ui.Clean(r.Top))
	}
	h.Format, h.Shallow = l[0], l[1] == "true"
	if l[2] != "true" || l[3] != r.Top || l[4] != r.GitDir {
		return h, ui.Refused("git finds another repository for %s than aivm does (%s, %s)", ui.Clean(r.Top), ui.Clean(l[3]), ui.Clean(l[4])).
			Hint(ui.CmdFor("check core.worktree and the directories above", "git -C "+shellescape.Quote(r.Top)+" rev-parse --show-toplevel --git-dir"))
	}
	if err := h.readRefs(ctx); err != nil {
		return h, err
	}
	if err := h.readPartial(ctx); err != nil {
		return h, err
	}
	b, err = r.Git(ctx, "symbolic-ref", "-q", "HEAD")
	if err != nil && !hostgit.FailedWith(err, 1) {
		return h, hostgit.ReadError(r, err)
	}
	h.NoBranch = true
	name, ok := strings.CutPrefix(strings.TrimRight(string(b), "\n"), "refs/heads/")
	if !ok || err != nil {
		return h, ui.Refused("git mode needs a branch: %s has a detached HEAD", ui.Clean(r.Top)).
			Hint(ui.CmdFor("create a branch from it", "git -C "+shellescape.Quote(r.Top)+" switch -c work"), ui.CmdFor("or return to the previous branch", "git -C "+shellescape.Quote(r.Top)+" switch -"))
	}
	h.Branch = name
	if !BranchName(name) {
		return h, ui.Refused("the branch %q cannot be used in git mode", name).Hint(ui.CmdFor("rename it, for example to work", "git -C "+shellescape.Quote(r.Top)+" branch -m work"))
	}
	if h.Head = h.Heads[name]; h.Head == "" {
		return h, ui.Refused("git mode needs a commit: branch %s of %s has no commits yet", ui.Clean(name), ui.Clean(r.Top)).
			Hint(ui.Cmd("git -C " + shellescape.Quote(r.Top) + " add . && git -C " + shellescape.Quote(r.Top) + " commit -m start"))
	}
	h.NoBranch = false
	if b, err = r.Git(ctx, "for-each-ref", "--merged="+h.Head, "--format=%(objectname) %(refname)", "refs/tags"); err != nil {
		return h, hostgit.ReadError(r, err)
	}
	for _, s := range hostgit.Lines(b) {
		oid, ref, _ := strings.Cut(s, " ")
		h.Tags[ref] = oid
	}
	if t := h.Tracked[name]; t != "" {
		if h.Ahead, h.Behind, err = h.Count(ctx, h.Head, t); err != nil {
			return h, hostgit.ReadError(r, err)
		}
	}
	return h, nil
}

// readRefs reads the host's branches, and the remote-tracking refs of the guest's.
func (h *Host) readRefs(ctx context.Context) error {
	prefix := "refs/remotes/" + h.Remote + "/"
	b, err := h.Repo.Git(ctx, "for-each-ref", "--format=%(objectname) %(refname)", "refs/heads", prefix)
	if err != nil {
		return hostgit.ReadError(h.Repo, err)
	}
	for _, s := range hostgit.Lines(b) {
		oid, ref, _ := strings.Cut(s, " ")
		if n, ok := strings.CutPrefix(ref, "refs/heads/"); ok {
			h.Heads[n] = oid
		} else if n, ok := strings.CutPrefix(ref, prefix); ok {
			h.Tracked[n] = oid
		}
	}
	return nil
}

// readPartial determines whether objects may be missing or are borrowed from another store.
func (h *Host) readPartial(ctx context.Context) error {
	_, err := h.Repo.Git(ctx, "config", "--get-regexp", `^(extensions\.partialclone|remote\..*\.(promisor|partialclonefilter))$`)
	switch {
	case err == nil:
		h.Partial = true
	case !hostgit.FailedWith(err, 1):
		return hostgit.ReadError(h.Repo, err)
	}
	_, err = os.Stat(filepath.Join(h.Repo.CommonDir, "objects/info/alternates"))
	h.Borrows = err == nil
	return nil
}

// Count returns the number of commits in a but not in b, and in b but not in a.
func (h Host) Count(ctx context.Context, a, b string) (ahead, behind int, err error) {
	if a == b {
		return 0, 0, nil
	}
	out, err := h.Repo.Git(ctx, "rev-list", "--left-right", "--count", a+"..."+b, "--")
	if err != nil {
		return 0, 0, err
	}
	return parsePair(string(out))
}

func parsePair(s string) (a, b int, err error) {
	f := strings.Fields(s)
	if len(f) != 2 {
		return 0, 0, errors.New("git rev-list --count printed no two numbers")
	}
	if a, err = strconv.Atoi(f[0]); err == nil {
		b, err = strconv.Atoi(f[1])
	}
	return a, b, err
}

// Has returns those of the objects that the repository has, with their types.
func (h Host) Has(ctx context.Context, oids []string) (map[string]string, error) {
	out := map[string]string{}
	if len(oids) == 0 {
		return out, nil
	}
	b, err := hostgit.Run(ctx, hostgit.Call{
		Repo: h.Repo, Args: []string{"cat-file", "--batch-check=%(objectname) %(objecttype)"},
		Stdin: strings.NewReader(strings.Join(oids, "\n") + "\n"),
		// Objects that a partial clone lacks must not be fetched here.
		Env: []string{"GIT_NO_LAZY_FETCH=1"},
	})
	if err != nil {
		return nil, err
	}
	for _, l := range hostgit.Lines(b) {
		if oid, kind, ok := strings.Cut(l, " "); ok && kind != "missing" {
			out[oid] = kind
		}
	}
	return out, nil
}

// NeedsGitProgram returns the reason that go-git must not be used for the repository, "" if there
// is none: go-git 5 does not fully support SHA-256, partial and shallow clones, linked work trees
// and alternates.
func (h Host) NeedsGitProgram() string {
	switch {
	case h.Format != "sha1":
		return "its object names are " + h.Format
	case h.Partial:
		return "it is a partial clone"
	case h.Shallow:
		return "it is a shallow clone"
	case h.Repo.Linked():
		return "it is a linked work tree"
	case h.Borrows:
		return "it borrows objects of another repository"
	}
	return ""
}

var (
	oidPattern = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)
	badRef     = regexp.MustCompile(`[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/$|\.$|\.lock(/|$)|(^|/)\.`)
)

// OID reports whether s is the name of an object and not the null one.
func OID(s string) bool { return oidPattern.MatchString(s) && strings.Trim(s, "0") != "" }

// BranchName applies git's rule for branch names (git-check-ref-format(1)), a bit stricter: it also
// refuses names that git would take for an option or for HEAD.
func BranchName(s string) bool {
	return s != "" && len(s) <= 200 && s != "HEAD" && s != "@" && !strings.HasPrefix(s, "-") && !strings.HasPrefix(s, "/") && !badRef.MatchString(s)
}

// Objects returns the directory of the repository's object store.
func (h Host) Objects() string { return filepath.Join(h.Repo.CommonDir, "objects") }

// ConnectivityArgs returns the first arguments of git for a connectivity check.
func (h Host) ConnectivityArgs() []string {
	if h.Partial {
		return []string{"rev-list", "--exclude-promisor-objects"}
	}
	return []string{"rev-list"}
}
