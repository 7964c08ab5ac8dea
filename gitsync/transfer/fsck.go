package transfer

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/gitsync/compare"
	"aivm.dev/aivm/internal/capture"
	"aivm.dev/aivm/internal/ui"
)

// git checks every object that a guest sends, and refuses one with a fault. The faults have IDs
// (git-fsck(1), "FSCK MESSAGES"). Which of them do no harm is decided here, for all of git's versions;
// a fault that is not listed is refused, whatever the user's settings are: it concerns .git,
// .gitmodules, .gitattributes, links, paths, NUL bytes or the structure of an object.

// hostedFaults are in the history of many old projects, written by git and other programs of that
// time. GitLab and Gitea accept them (GitHub has such projects too), and so does aivm.
var hostedFaults = []string{"badTimezone", "missingSpaceBeforeDate", "zeroPaddedFilemode"}

// cosmeticFaults concern what a commit or tag says about its author. Hosters refuse them. They are
// accepted if the user's fetch.fsck.ID says so.
var cosmeticFaults = []string{
	"badDate", "badDateOverflow", "badEmail", "badName", "missingEmail", "missingNameBeforeEmail",
	"missingSpaceBeforeEmail", "multipleAuthors", "zeroPaddedDate",
}

// infoFaults are accepted by git itself, even if strict.
var infoFaults = []string{
	"badFilemode", "badTagName", "extraHeaderEntry", "gitattributesSymlink", "gitignoreSymlink",
	"gitmodulesParse", "mailmapSymlink", "missingTaggerEntry",
}

// faultIn returns the ID of the list that equals id, which may be in lower case.
func faultIn(list []string, id string) (string, bool) {
	i := slices.IndexFunc(list, func(s string) bool { return strings.EqualFold(s, id) })
	if i < 0 {
		return "", false
	}
	return list[i], true
}

// severities is how grave git is to take faults, by ID: "warn", "ignore" or "error".
type severities map[string]string

// faultSeverities returns the severities that differ from git's own for a fetch into h: those above,
// changed by the user's settings where that is possible.
func faultSeverities(ctx context.Context, h compare.Host) (severities, error) {
	set, err := h.Repo.FsckSettings(ctx)
	if err != nil {
		return nil, err
	}
	out := severities{}
	for _, id := range hostedFaults {
		out[id] = "warn"
	}
	for key, value := range set {
		known := value == "warn" || value == "ignore" || value == "error"
		if id, ok := faultIn(slices.Concat(hostedFaults, cosmeticFaults), key); ok && known {
			out[id] = value
		}
	}
	return out, nil
}

// strict returns the argument of index-pack.
func (s severities) strict() string {
	var l []string
	for _, id := range slices.Sorted(maps.Keys(s)) {
		l = append(l, id+"="+s[id])
	}
	return "--strict=" + strings.Join(l, ",")
}

// fetchArgs returns the settings for git fetch. They also take back what the user's settings allow
// beyond the lists above: git fetch reads these settings itself, index-pack does not.
func (s severities) fetchArgs(ctx context.Context, h compare.Host) ([]string, error) {
	set, err := h.Repo.FsckSettings(ctx)
	if err != nil {
		return nil, err
	}
	all := maps.Clone(s)
	for key := range set {
		if _, ok := faultIn(slices.Concat(hostedFaults, cosmeticFaults, infoFaults), key); !ok && key != "skiplist" {
			all[key] = "error"
		}
	}
	for _, id := range cosmeticFaults {
		if all[id] == "" {
			all[id] = "error"
		}
	}
	var args []string
	for _, id := range slices.Sorted(maps.Keys(all)) {
		args = append(args, "-c", "fetch.fsck."+id+"="+all[id])
	}
	return args, nil
}

var (
	faultWarning = regexp.MustCompile(`^warning: object [0-9a-f]{40,64}: ([A-Za-z]+): `)
	faultError   = regexp.MustCompile(`(?m)^error: object ([0-9a-f]{40,64}): ([A-Za-z0-9]+): (.*)$`)
)

// faults counts the faults that git accepted, by ID.
type faults map[string]int

// reader returns the writer that git's standard error goes to.
func (f faults) reader() *capture.Lines {
	return &capture.Lines{Each: func(l string) {
		if m := faultWarning.FindStringSubmatch(l); m != nil {
			if id, ok := faultIn(slices.Concat(hostedFaults, cosmeticFaults), m[1]); ok {
				f[id]++
			}
		}
	}}
}

// note describes the accepted faults; it is empty if there are none.
func (f faults) note(vm string) string {
	if len(f) == 0 {
		return ""
	}
	var l []string
	for _, id := range slices.Sorted(maps.Keys(f)) {
		l = append(l, fmt.Sprintf("%s (%d)", id, f[id]))
	}
	return fmt.Sprintf("VM %s sent objects with faults that do no harm, as old history has them, and they were accepted: %s", vm, strings.Join(l, ", "))
}

// faultRefusal returns the error for an object that git refused, nil if that is not what stderr is
// about.
func faultRefusal(p Peer, h compare.Host, stderr string) error {
	m := faultError.FindStringSubmatch(stderr)
	if m == nil {
		return nil
	}
	e := ui.Refused("VM %s sent invalid objects; nothing was fetched: object %.10s: %s: %s", p.VM, m[1], m[2], ui.CleanTo(m[3], 200))
	q := shellescape.Quote(h.Repo.Top)
	if id, ok := faultIn(slices.Concat(hostedFaults, cosmeticFaults), m[2]); ok {
		return e.Hint(ui.CmdFor("see the object", "ssh "+p.VM+" git -C "+quoteTwice(p.Dir)+" cat-file -p "+m[1]),
			ui.CmdFor("if it is old history, accept this fault of all objects", "git -C "+q+" config fetch.fsck."+id+" warn"),
			ui.CmdFor("then", "aivm git fetch "+q))
	}
	return e.Hint(ui.CmdFor("check the clone", "ssh "+p.VM+" git -C "+quoteTwice(p.Dir)+" fsck --full"))
}
