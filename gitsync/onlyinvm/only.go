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

// Only is what a clone in a VM has and the repository on this machine does not.
// The guest says so: it can hide something or make something up, and no more.
type Only struct {
	Branches    []string              `json:"branches"`    // with commits that are not here
	Commits     []string              `json:"commits"`     // checked out without a branch
	Refs        []string              `json:"refs"`        // tags, notes and others
	Files       []hostgit.StatusEntry `json:"files"`       // not committed; a folder git does not track is one entry
	Stashes     []string              `json:"stashes"`     // what each says of itself
	Inside      []Inside              `json:"inside"`      // other work trees and repositories
	LFS         int                   `json:"lfs"`         // files of git-lfs whose content is not here
	Ignored     int                   `json:"ignored"`     // files and folders git ignores
	Unreachable int                   `json:"unreachable"` // commits only a reflog names: reset, amended, rebased
	Incomplete  []string              `json:"incomplete"`  // what could not be seen, and why
	sent        bool                  // by aivm: some of Files may be what was not committed here
}

// Inside is a work tree that belongs to a clone, or a repository in it.
type Inside struct {
	Path    string `json:"path"`
	Kind    string `json:"kind"`    // "worktree", "submodule", "repository"
	Files   int    `json:"files"`   // not committed
	Commits int    `json:"commits"` // that no remote of it has, and that were not sent by aivm
	Stashes int    `json:"stashes"`
}

// Holds reports whether the VM has something that would be missed. Ignored files
// and commits that somebody took out of every branch are told, and do not count.
func (o Only) Holds() bool {
	return len(o.Branches)+len(o.Commits)+len(o.Refs)+len(o.Files)+len(o.Stashes)+len(o.Inside)+len(o.Incomplete)+o.LFS > 0
}

// MarshalJSON writes empty lists as such.
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
	// maxOnly bounds how much of each kind is kept of what a guest names.
	maxOnly = 1000
	// maxInside bounds how many repositories in a clone are looked at.
	maxInside = 100
	// maxFiles bounds what git status may answer.
	maxFiles = 400_000
)

// The pieces of the probe. Programs are dear in an emulated guest, so nothing is
// started for what is not there, as the shell itself can see.

// onlyFiles lists what is not committed, and what is ignored, as git status does.
//
//go:embed files.sh
var onlyFiles string

// onlyRefs lists the commit that is checked out without a branch, refs that are
// no branches and tags, stashes, and counts the commits only reflogs name.
//
//go:embed refs.sh
var onlyRefs string

//go:embed insideone.sh
var insideOneText string

//go:embed inside.sh
var insideText string

// onlyInside counts, for the other work trees of the clone and for repositories
// in it, what is not committed and what no remote has: with NULs kind, path,
// files, commits, stashes, and the commit a work tree has without a branch. What
// cannot be counted counts as one.
var onlyInside = strings.ReplaceAll(strings.ReplaceAll(insideText, "@ONE@", strings.TrimSuffix(insideOneText, "\n")), "@GIT@", guestscript.Git)

// Probes ask for what Find needs to know of the clone in dir. The one
// that can take long is the last.
func Probes(dir string) []guest.Probe {
	in := "d=" + shellescape.Quote(dir) + "\n[ -d \"$d\" ] || exit 0\ncd -- \"$d\" || exit 1\n" + guestscript.Git
	return []guest.Probe{{Name: "only refs", Script: in + onlyRefs}, {Name: "only files", Script: in + onlyFiles}, {Name: "only lfs", Script: in + onlyLFS}, {Name: "only inside", Script: in + onlyInside}}
}

// Find says what the clone has that the repository h lacks. g and said are
// the guest's answers, to GuestProbe and to Probes; what is missing there is
// not known, for the reason why. news are the branches that are not where they
// were last seen here. hostKnown says whether h is known; without it all the clone
// has counts.
func Find(ctx context.Context, h compare.Host, hostKnown bool, g compare.Guest, news map[string]string, said map[string][]byte, why error) (Only, error) {
	var o Only
	switch g.State {
	case compare.Clone:
	case compare.Absent, compare.NoDir:
		return o, nil
	case compare.Other:
		o.Incomplete = append(o.Incomplete, "the folder holds files and no repository")
		return o, nil
	default:
		o.Incomplete = append(o.Incomplete, "git in the VM cannot use it ("+string(g.State)+"): "+ui.CleanTo(g.Why, 200))
		return o, nil
	}
	for what, name := range map[string]string{"files": "uncommitted files", "refs": "stashes and tags", "lfs": "files of git-lfs", "inside": "repositories in it"} {
		if _, ok := said["only "+what]; !ok {
			o.Incomplete = append(o.Incomplete, "its "+name+" could not be listed: "+ui.CleanTo(errText(why), 200))
		}
	}
	slices.Sort(o.Incomplete)
	if len(said["only files"]) == maxFiles {
		o.Incomplete = append(o.Incomplete, "it has more uncommitted files than are read")
	}
	if g.More {
		o.Incomplete = append(o.Incomplete, "it has more branches and tags than are read")
	}
	for _, s := range hostgit.ParseStatus(string(said["only files"])) {
		switch s.Code {
		case "!!":
			o.Ignored++
		case "EE": // no code of git's
			o.Incomplete = append(o.Incomplete, "git status failed, so its uncommitted files are not known")
		default:
			o.Files = append(o.Files, s)
		}
	}
	o.onlyLFS(h, hostKnown, said["only lfs"])
	for ref := range g.Wip {
		o.sent = o.sent || strings.HasPrefix(ref, "refs/aivm/shown/")
	}
	loose := map[string]string{} // ref or place -> object
	for ref, oid := range g.Odd {
		loose[strings.TrimPrefix(ref, "refs/")] = oid
	}
	for ref, oid := range g.Tags {
		loose[strings.TrimPrefix(ref, "refs/")] = oid
	}
	heads, stashes := map[string]bool{}, [][2]string{} // oid, what it says
	for _, l := range hostgit.Lines(said["only refs"]) {
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
	inside, at, unseen := parseInside(said["only inside"])
	o.Incomplete = append(o.Incomplete, unseen...)
	for _, oid := range at {
		heads[oid] = true
	}
	oids := slices.Concat(slices.Collect(maps.Values(loose)), slices.Collect(maps.Keys(heads)), slices.Collect(maps.Values(news)))
	for _, st := range stashes {
		oids = append(oids, st[0])
	}
	here := map[string]bool{}
	if hostKnown {
		var err error
		if here, err = keeps(ctx, h, oids); err != nil {
			return o, err
		}
	}
	for name, oid := range news {
		if !here[oid] {
			o.Branches = append(o.Branches, name)
		}
	}
	slices.Sort(o.Branches)
	// What a branch of the clone is at too was fetched with it, or is named.
	for _, oid := range g.Heads {
		here[oid] = true
	}
	for _, st := range stashes {
		if !here[st[0]] {
			o.Stashes = append(o.Stashes, st[1])
		}
	}
	for name, oid := range loose {
		if !here[oid] {
			o.Refs = append(o.Refs, name)
		}
	}
	slices.Sort(o.Refs)
	for oid := range heads {
		if !here[oid] {
			o.Commits = append(o.Commits, oid)
		}
	}
	slices.Sort(o.Commits)
	for _, i := range inside {
		if i.Files+i.Commits+i.Stashes > 0 {
			o.Inside = append(o.Inside, i)
		}
	}
	o.bound()
	return o, nil
}

func errText(err error) string {
	if err == nil {
		return "the guest did not say why"
	}
	return err.Error()
}

// bound cuts lists that are endless.
func (o *Only) bound() {
	cut := func(what string, n int) int {
		if n <= maxOnly {
			return n
		}
		o.Incomplete = append(o.Incomplete, fmt.Sprintf("of %d %s only %d are named", n, what, maxOnly))
		return maxOnly
	}
	o.Files = o.Files[:cut("uncommitted files", len(o.Files))]
	for what, l := range map[string]*[]string{"branches": &o.Branches, "commits": &o.Commits, "tags": &o.Refs, "stashes": &o.Stashes} {
		*l = (*l)[:cut(what, len(*l))]
	}
}

// parseInside reads what onlyInside wrote. at are commits that work trees have
// checked out without a branch, unseen what it did not see.
func parseInside(b []byte) (out []Inside, at, unseen []string) {
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
				at = append(at, f[5])
			}
		}
		f = f[6:]
	}
	if more || len(f) > 6 {
		unseen = append(unseen, "it has more repositories in it than are looked at")
	}
	if closed {
		unseen = append(unseen, "folders in it cannot be read by its user")
	}
	return out, at, unseen
}

// keeps reports which of the objects a ref of the repository leads to: one that
// is only there goes with the next gc.
func keeps(ctx context.Context, h compare.Host, oids []string) (map[string]bool, error) {
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
			Args: append(h.MissingOK(), "--stdin", "--not", "--all"),
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

// Lines says what the clone has, one kind a line, harmless to show. What counts
// comes first.
func (o Only) Lines() []string {
	var out []string
	add := func(n int, format string, args ...any) {
		if n > 0 {
			out = append(out, fmt.Sprintf(format, args...))
		}
	}
	add(len(o.Branches), "commits that are not here, on %s: %s", count(len(o.Branches), "branch", "branches"), ui.Some(o.Branches, 10))
	add(len(o.Commits), "commits checked out without a branch: %s", ui.Some(o.Commits, 5))
	add(len(o.Refs), "tags and other refs: %s", ui.Some(o.Refs, 10))
	var files []string
	for _, f := range o.Files {
		files = append(files, f.Path)
	}
	from := ""
	if o.sent {
		from = " (some may have been sent from here by --include-uncommitted)"
	}
	add(len(o.Files), "files that are not committed%s: %s", from, ui.Some(files, 10))
	add(o.LFS, "%s whose content is not here", count(o.LFS, "file of git-lfs", "files of git-lfs"))
	add(len(o.Stashes), "%s: %s", count(len(o.Stashes), "stash", "stashes"), ui.Some(o.Stashes, 5))
	for n, i := range o.Inside {
		if n == 10 {
			out = append(out, fmt.Sprintf("and in %d more work trees and repositories", len(o.Inside)-n))
			break
		}
		var has []string
		if i.Commits > 0 {
			has = append(has, count(i.Commits, "commit that no remote of it has", "commits that no remote of it has"))
		}
		if i.Files > 0 {
			has = append(has, count(i.Files, "file not committed", "files not committed"))
		}
		if i.Stashes > 0 {
			has = append(has, count(i.Stashes, "stash", "stashes"))
		}
		out = append(out, fmt.Sprintf("in the %s %s: %s", i.Kind, ui.CleanTo(i.Path, 200), strings.Join(has, ", ")))
	}
	for _, s := range o.Incomplete {
		out = append(out, ui.CleanTo(s, 300))
	}
	add(o.Unreachable, "%s that no branch has any more (reset, amended or rebased)", count(o.Unreachable, "commit", "commits"))
	add(o.Ignored, "%s that git ignores", count(o.Ignored, "file or folder", "files and folders"))
	return out
}
