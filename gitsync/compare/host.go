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

// Host is what was seen of the repository on this machine.
type Host struct {
	Repo    hostgit.Repo
	Remote  string // the remote that stands for the guest's clone
	Format  string // of object names: "sha1" or "sha256"
	Shallow bool
	Partial bool // objects are missing on purpose
	Branch  string
	Head    string // what Branch is at
	// NoBranch says that none that can be pushed is checked out, as in a rebase
	// or a bisect: Head, Tags, Ahead and Behind are not known then.
	NoBranch bool
	Tags     map[string]string // full ref name -> object, those that Branch contains
	Tracked  map[string]string // branch of the guest -> what was last seen of it
	Heads    map[string]string // the host's own branches
	Ahead    int               // commits of Branch that Tracked[Branch] lacks
	Behind   int               // and the other way; both 0 without one
	Borrows  bool              // an object store of somebody else's is used
}

// Observe looks at the repository. It changes nothing. remote may have no
// section yet. Without a branch to push it returns an error and what else it saw.
func Observe(ctx context.Context, r hostgit.Repo, remote string) (Host, error) {
	h := Host{Repo: r, Remote: remote, Tags: map[string]string{}, Tracked: map[string]string{}, Heads: map[string]string{}}
	b, err := r.Git(ctx, "rev-parse", "--show-object-format", "--is-shallow-repository", "--is-inside-work-tree", "--show-toplevel", "--absolute-git-dir")
	if err != nil {
		return h, hostgit.ReadError(r, err)
	}
	l := hostgit.Lines(b)
	if len(l) != 5 {
		return h, ui.Refused("the repository of %s cannot be used: its paths have line breaks, or git is too old", ui.Clean(r.Top))
	}
	h.Format, h.Shallow = l[0], l[1] == "true"
	if l[2] != "true" || l[3] != r.Top || l[4] != r.GitDir {
		return h, ui.Refused("git sees another repository at %s than aivm does (%s, %s)", ui.Clean(r.Top), ui.Clean(l[3]), ui.Clean(l[4])).
			Hint(ui.CmdFor("core.worktree, or a directory in between, leads it elsewhere", "git -C "+shellescape.Quote(r.Top)+" rev-parse --show-toplevel --git-dir"))
	}
	if err := h.refs(ctx); err != nil {
		return h, err
	}
	if err := h.partial(ctx); err != nil {
		return h, err
	}
	b, err = r.Git(ctx, "symbolic-ref", "-q", "HEAD")
	if err != nil && !hostgit.FailedWith(err, 1) {
		return h, hostgit.ReadError(r, err)
	}
	h.NoBranch = true
	name, ok := strings.CutPrefix(strings.TrimRight(string(b), "\n"), "refs/heads/")
	if !ok || err != nil {
		return h, ui.Refused("git mode needs a branch: in %s a commit is checked out by itself (detached HEAD)", ui.Clean(r.Top)).
			Hint(ui.Cmd("make a branch of it: git -C "+shellescape.Quote(r.Top)+" switch -c NAME"), ui.CmdFor("or go back to one", "git -C "+shellescape.Quote(r.Top)+" switch -"))
	}
	h.Branch = name
	if !BranchName(name) {
		return h, ui.Refused("the branch %q cannot be used in git mode", name).Hint(ui.CmdFor("rename it", "git -C "+shellescape.Quote(r.Top)+" branch -m NAME"))
	}
	if h.Head = h.Heads[name]; h.Head == "" {
		return h, ui.Refused("git mode needs a commit: branch %s of %s has none yet", ui.Clean(name), ui.Clean(r.Top)).
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

// refs reads the branches, the host's and those last seen of the guest.
func (h *Host) refs(ctx context.Context) error {
	own := "refs/remotes/" + h.Remote + "/"
	b, err := h.Repo.Git(ctx, "for-each-ref", "--format=%(objectname) %(refname)", "refs/heads", own)
	if err != nil {
		return hostgit.ReadError(h.Repo, err)
	}
	for _, s := range hostgit.Lines(b) {
		oid, ref, _ := strings.Cut(s, " ")
		if n, ok := strings.CutPrefix(ref, "refs/heads/"); ok {
			h.Heads[n] = oid
		} else if n, ok := strings.CutPrefix(ref, own); ok {
			h.Tracked[n] = oid
		}
	}
	return nil
}

// partial sees whether objects are missing or are somebody else's.
func (h *Host) partial(ctx context.Context) error {
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

// Count returns how many commits a has that b lacks, and the other way.
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
		return 0, 0, errors.New("git counted nothing")
	}
	if a, err = strconv.Atoi(f[0]); err == nil {
		b, err = strconv.Atoi(f[1])
	}
	return a, b, err
}

// Has reports which of the objects the repository has, by their type.
func (h Host) Has(ctx context.Context, oids []string) (map[string]string, error) {
	out := map[string]string{}
	if len(oids) == 0 {
		return out, nil
	}
	b, err := hostgit.Run(ctx, hostgit.Call{
		Repo: h.Repo, Args: []string{"cat-file", "--batch-check=%(objectname) %(objecttype)"},
		Stdin: strings.NewReader(strings.Join(oids, "\n") + "\n"),
		// Missing objects of a partial clone are missing here.
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

// Special says why go-git cannot be trusted with the repository, "" if it can
// (LIBRARIES.md 5).
func (h Host) Special() string {
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

// OID reports whether s is the name of an object, not the null one.
func OID(s string) bool { return oidPattern.MatchString(s) && strings.Trim(s, "0") != "" }

// BranchName is git's rule for a branch (git-check-ref-format(1)), and a bit
// stricter: no name git would take for an option or for HEAD.
func BranchName(s string) bool {
	return s != "" && len(s) <= 200 && s != "HEAD" && s != "@" && !strings.HasPrefix(s, "-") && !strings.HasPrefix(s, "/") && !badRef.MatchString(s)
}

func (h Host) Objects() string { return filepath.Join(h.Repo.CommonDir, "objects") }

// MissingOK starts the rev-list of a connectivity check.
func (h Host) MissingOK() []string {
	if h.Partial {
		return []string{"rev-list", "--exclude-promisor-objects"}
	}
	return []string{"rev-list"}
}
