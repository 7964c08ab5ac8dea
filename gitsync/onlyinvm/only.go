package onlyinvm

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/gitsync/compare"
	"aivm.dev/aivm/gitsync/guestscript"
	"aivm.dev/aivm/gitsync/hostgit"
	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/ui"
)

// Only lists what exists in a VM's clone but not in the repository on the host. The guest reports
// it, so it can hide or invent something, but nothing more.
type Only struct {
	Branches    []string              `json:"branches"`    // with commits the host lacks
	Commits     []string              `json:"commits"`     // checked out without a branch
	Refs        []string              `json:"refs"`        // tags, notes and others
	Files       []hostgit.StatusEntry `json:"files"`       // uncommitted; an untracked folder is one entry
	Stashes     []string              `json:"stashes"`     // the message of each
	Inside      []Inside              `json:"inside"`      // other work trees and repositories
	LFS         int                   `json:"lfs"`         // git-lfs objects the host lacks
	Ignored     int                   `json:"ignored"`     // files and folders git ignores
	Unreachable int                   `json:"unreachable"` // commits only in a reflog: reset, amended, rebased
	Incomplete  []string              `json:"incomplete"`  // what could not be checked, and why
	sent        bool                  // aivm sent uncommitted files: some of Files may be these
}

// Inside is another work tree of a clone, or a repository inside it.
type Inside struct {
	Path    string `json:"path"`
	Kind    string `json:"kind"`    // "worktree", "submodule", "repository"
	Files   int    `json:"files"`   // uncommitted
	Commits int    `json:"commits"` // on none of its remotes, and not sent by aivm
	Stashes int    `json:"stashes"`
}

// Holds reports whether deleting the clone would lose something. Ignored files and commits that
// were removed from every branch are listed but do not count.
func (o Only) Holds() bool {
	return len(o.Branches)+len(o.Commits)+len(o.Refs)+len(o.Files)+len(o.Stashes)+len(o.Inside)+len(o.Incomplete)+o.LFS > 0
}

// MarshalJSON writes nil lists as empty ones.
func (o Only) MarshalJSON() ([]byte, error) {
	type plain Only
	p := plain(o)
	for _, l := range []*[]string{&p.Branches, &p.Commits, &p.Refs, &p.Stashes, &p.Incomplete} {
		if *l == nil {
			*l = []string{}
		}
	}
	if p.Files == nil {
		p.Files = []hostgit.StatusEntry{}
	}
	if p.Inside == nil {
		p.Inside = []Inside{}
	}
	return json.Marshal(p)
}

const (
	// maxOnly bounds the number of entries of each kind.
	maxOnly = 1000
	// maxInside bounds how many repositories inside a clone are checked.
	maxInside = 100
	// maxFiles bounds the output of git status, in bytes.
	maxFiles = 400_000
)

// The parts of the probe. Programs start slowly in an emulated guest, so the scripts start none for
// what the shell itself can see is not there.

// filesScript lists uncommitted and ignored files in the format of git status.
//
//go:embed files.sh
var filesScript string

// refsScript lists the commit of a detached HEAD, refs that are neither branches nor tags, and
// stashes, and counts the commits that are only in reflogs.
//
//go:embed refs.sh
var refsScript string

//go:embed insideone.sh
var insideOneText string

//go:embed inside.sh
var insideText string

// insideScript counts, for the other work trees of the clone and the repositories inside it, the
// uncommitted files and the commits no remote has. It prints NUL-terminated: kind, path, files,
// commits, stashes, and the commit of a work tree with a detached HEAD. What cannot be counted
// counts as one.
var insideScript = strings.ReplaceAll(strings.ReplaceAll(insideText, "@ONE@", strings.TrimSuffix(insideOneText, "\n")), "@GIT@", guestscript.Git)

// Probes returns the probes whose output Find needs about the clone in dir. The one that can take
// long is the last.
func Probes(dir string) []guest.Probe {
	in := "d=" + shellescape.Quote(dir) + "\n[ -d \"$d\" ] || exit 0\ncd -- \"$d\" || exit 1\n" + guestscript.Git
	return []guest.Probe{{Name: "only refs", Script: in + refsScript}, {Name: "only files", Script: in + filesScript}, {Name: "only lfs", Script: in + lfsScript}, {Name: "only inside", Script: in + insideScript}}
}

// Find lists what exists in the clone but not in the repository h. g and answers are the guest's
// output of GuestProbe and Probes; an answer that is missing could not be read, for the reason why.
// news are the guest's branches that moved since they were last fetched. hostKnown reports whether
// h was read; if not, everything in the clone counts.
func Find(ctx context.Context, h compare.Host, hostKnown bool, g compare.Guest, news map[string]string, answers map[string][]byte, why error) (Only, error) {
	var o Only
	switch g.State {
	case compare.Clone:
	case compare.Absent, compare.NoDir:
		return o, nil
	case compare.Other:
		o.Incomplete = append(o.Incomplete, "the folder has files but no git repository")
		return o, nil
	default:
		o.Incomplete = append(o.Incomplete, "git in the VM cannot use the clone ("+string(g.State)+"): "+ui.CleanTo(g.Why, 200))
		return o, nil
	}
	for what, name := range map[string]string{"files": "uncommitted files", "refs": "stashes and tags", "lfs": "git-lfs objects", "inside": "nested repositories"} {
		if _, ok := answers["only "+what]; !ok {
			o.Incomplete = append(o.Incomplete, "its "+name+" could not be listed: "+ui.CleanTo(errText(why), 200))
		}
	}
	slices.Sort(o.Incomplete)
	if len(answers["only files"]) == maxFiles {
		o.Incomplete = append(o.Incomplete, "it has more uncommitted files than aivm reads")
	}
	if g.RefsTruncated {
		o.Incomplete = append(o.Incomplete, "it has more branches and tags than aivm reads")
	}
	for _, s := range hostgit.ParseStatus(string(answers["only files"])) {
		switch s.Code {
		case "!!":
			o.Ignored++
		case "EE": // printed by the script, not by git
			o.Incomplete = append(o.Incomplete, "git status failed, so its uncommitted files are unknown")
		default:
			o.Files = append(o.Files, s)
		}
	}
	o.countLFS(h, hostKnown, answers["only lfs"])
	for ref := range g.Wip {
		o.sent = o.sent || strings.HasPrefix(ref, "refs/aivm/shown/")
	}
	loose := map[string]string{} // ref -> object
	for ref, oid := range g.UnsafeRefs {
		loose[strings.TrimPrefix(ref, "refs/")] = oid
	}
	for ref, oid := range g.Tags {
		loose[strings.TrimPrefix(ref, "refs/")] = oid
	}
	heads, stashes := map[string]bool{}, [][2]string{} // object and message of each
	for _, l := range hostgit.Lines(answers["only refs"]) {
		kind, rest, _ := strings.Cut(l, " ")
		oid, name, _ := strings.Cut(rest, " ")
		switch {
		case kind == "unreachable":
			o.Unreachable, _ = strconv.Atoi(oid)
			o.Unreachable = max(o.Unreachable, 0)
		case !compare.OID(oid):
		case kind == "head":
			heads[oid] = true
		case kind == "ref":
			loose[strings.TrimPrefix(name, "refs/")] = oid
		case kind == "stash":
			stashes = append(stashes, [2]string{oid, name})
		}
	}
	inside, detached, incomplete := parseInside(answers["only inside"])
	o.Incomplete = append(o.Incomplete, incomplete...)
	for _, oid := range detached {
		heads[oid] = true
	}
	oids := slices.Concat(slices.Collect(maps.Values(loose)), slices.Collect(maps.Keys(heads)), slices.Collect(maps.Values(news)))
	for _, st := range stashes {
		oids = append(oids, st[0])
	}
	onHost := map[string]bool{}
	if hostKnown {
		var err error
		if onHost, err = reachable(ctx, h, oids); err != nil {
			return o, err
		}
	}
	for name, oid := range news {
		if !onHost[oid] {
			o.Branches = append(o.Branches, name)
		}
	}
	slices.Sort(o.Branches)
	// An object that a branch of the clone points to was fetched with the branch, or is listed with
	// it.
	for _, oid := range g.Heads {
		onHost[oid] = true
	}
	for _, st := range stashes {
		if !onHost[st[0]] {
			o.Stashes = append(o.Stashes, st[1])
		}
	}
	for name, oid := range loose {
		if !onHost[oid] {
			o.Refs = append(o.Refs, name)
		}
	}
	slices.Sort(o.Refs)
	for oid := range heads {
		if !onHost[oid] {
			o.Commits = append(o.Commits, oid)
		}
	}
	slices.Sort(o.Commits)
	for _, i := range inside {
		if i.Files+i.Commits+i.Stashes > 0 {
			o.Inside = append(o.Inside, i)
		}
	}
	o.truncateLists()
	return o, nil
}

func errText(err error) string {
	if err == nil {
		return "the guest reported no reason"
	}
	return err.Error()
}

// truncateLists cuts lists to maxOnly entries.
func (o *Only) truncateLists() {
	cut := func(what string, n int) int {
		if n <= maxOnly {
			return n
		}
		o.Incomplete = append(o.Incomplete, fmt.Sprintf("of %d %s only %d are listed", n, what, maxOnly))
		return maxOnly
	}
	o.Files = o.Files[:cut("uncommitted files", len(o.Files))]
	for what, l := range map[string]*[]string{"branches": &o.Branches, "commits": &o.Commits, "tags": &o.Refs, "stashes": &o.Stashes} {
		*l = (*l)[:cut(what, len(*l))]
	}
}

// parseInside parses the output of insideScript. detached are the commits of work trees with a
// detached HEAD, incomplete what the script could not read.
func parseInside(b []byte) (out []Inside, detached, incomplete []string) {
	more, closed := false, false
	f := strings.Split(string(b), "\x00")
	for len(f) > 6 && len(out) < 2*maxInside {
		i := Inside{Kind: f[0], Path: strings.TrimPrefix(f[1], "./")}
		n := [3]int{}
		for k := range n {
			n[k], _ = strconv.Atoi(strings.TrimSpace(f[2+k]))
			n[k] = min(max(n[k], 0), 1_000_000)
		}
		i.Files, i.Commits, i.Stashes = n[0], n[1], n[2]
		switch i.Kind {
		case "more":
			more = true
		case "closed":
			closed = true
		case "worktree", "submodule", "repository":
			out = append(out, i)
			if compare.OID(f[5]) {
				detached = append(detached, f[5])
			}
		}
		f = f[6:]
	}
	if more || len(f) > 6 {
		incomplete = append(incomplete, "it has more nested repositories than aivm checks")
	}
	if closed {
		incomplete = append(incomplete, "the guest user cannot read some of its folders")
	}
	return out, detached, incomplete
}

// reachable returns those of the objects that a ref of the repository reaches: git's next gc
// deletes others.
func reachable(ctx context.Context, h compare.Host, oids []string) (map[string]bool, error) {
	out := map[string]bool{}
	oids = slices.Compact(slices.Sorted(slices.Values(oids)))
	if len(oids) == 0 {
		return out, nil
	}
	have, err := h.Has(ctx, oids)
	if err != nil {
		return nil, hostgit.ReadError(h.Repo, err)
	}
	var commits []string
	tags := false
	for oid, kind := range have {
		switch kind {
		case "commit":
			commits = append(commits, oid)
			out[oid] = true
		case "tag":
			tags = true
		default:
			out[oid] = true
		}
	}
	if len(commits) > 0 {
		b, err := hostgit.Run(ctx, hostgit.Call{
			Repo: h.Repo, Env: []string{"GIT_NO_LAZY_FETCH=1"}, Stdin: strings.NewReader(strings.Join(commits, "\n") + "\n"),
			Args: append(h.ConnectivityArgs(), "--stdin", "--not", "--all"),
		})
		if err != nil {
			return nil, hostgit.ReadError(h.Repo, err)
		}
		for _, oid := range hostgit.Lines(b) {
			delete(out, oid)
		}
	}
	if tags {
		b, err := h.Repo.Git(ctx, "for-each-ref", "--format=%(objectname)")
		if err != nil {
			return nil, hostgit.ReadError(h.Repo, err)
		}
		for _, oid := range hostgit.Lines(b) {
			if have[oid] != "" {
				out[oid] = true
			}
		}
	}
	return out, nil
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// Lines describes what exists only in the clone, one kind per line, cleaned for the terminal. What
// counts for Holds comes first.
func (o Only) Lines() []string {
	var out []string
	add := func(n int, format string, args ...any) {
		if n > 0 {
			out = append(out, fmt.Sprintf(format, args...))
		}
	}
	add(len(o.Branches), "commits that this machine lacks, on %s: %s", count(len(o.Branches), "branch", "branches"), ui.Some(o.Branches, 10))
	add(len(o.Commits), "commits of a detached HEAD: %s", ui.Some(o.Commits, 5))
	add(len(o.Refs), "tags and other refs: %s", ui.Some(o.Refs, 10))
	var files []string
	for _, f := range o.Files {
		files = append(files, f.Path)
	}
	from := ""
	if o.sent {
		from = " (some may have been sent from this machine by --include-uncommitted)"
	}
	add(len(o.Files), "uncommitted files%s: %s", from, ui.Some(files, 10))
	add(o.LFS, "%s that this machine lacks", count(o.LFS, "git-lfs object", "git-lfs objects"))
	add(len(o.Stashes), "%s: %s", count(len(o.Stashes), "stash", "stashes"), ui.Some(o.Stashes, 5))
	for n, i := range o.Inside {
		if n == 10 {
			out = append(out, fmt.Sprintf("in %d more work trees and repositories", len(o.Inside)-n))
			break
		}
		var has []string
		if i.Commits > 0 {
			has = append(has, count(i.Commits, "commit on none of its remotes", "commits on none of its remotes"))
		}
		if i.Files > 0 {
			has = append(has, count(i.Files, "uncommitted file", "uncommitted files"))
		}
		if i.Stashes > 0 {
			has = append(has, count(i.Stashes, "stash", "stashes"))
		}
		out = append(out, fmt.Sprintf("in the %s %s: %s", i.Kind, ui.CleanTo(i.Path, 200), strings.Join(has, ", ")))
	}
	for _, s := range o.Incomplete {
		out = append(out, ui.CleanTo(s, 300))
	}
	add(o.Unreachable, "%s on no branch (reset, amended or rebased)", count(o.Unreachable, "commit", "commits"))
	add(o.Ignored, "%s ignored by git", count(o.Ignored, "file or folder", "files and folders"))
	return out
}
