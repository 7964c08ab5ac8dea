package compare

import (
	_ "embed"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/gitsync/guestscript"
	"aivm.dev/aivm/internal/ui"
)

// GuestState says what is at the clone's place in the guest.
type GuestState string

// What can be there.
const (
	Absent GuestState = "absent" // nothing, or an empty directory
	Clone  GuestState = "repo"
	Other  GuestState = "other"  // a directory with something else in it
	NoDir  GuestState = "file"   // no directory
	Closed GuestState = "closed" // the guest's user cannot look
	Broken GuestState = "broken" // .git is there and git cannot use it
	NoGit  GuestState = "nogit"  // git is not installed in the guest
)

// Guest is what the guest said of the clone. All of it is hearsay.
type Guest struct {
	State  GuestState
	Why    string            // for Broken: git's words
	Head   string            // the branch checked out; "" with a detached HEAD
	Marked string            // the branch aivm checked out last
	Heads  map[string]string // branches
	Tags   map[string]string // full names
	Wip    map[string]string // refs/aivm/..., full names
	Odd    map[string]string // branches and tags that are not followed for their names, full names
	More   bool              // there are more refs than were read
}

// maxRefs bounds what is read of a guest's refs: some 10,000 of them. The
// answer of a probe is bounded too (guest.MaxAnswer).
const maxRefs = 800_000

//go:embed probe.sh
var probeText string

// GuestProbe is the piece of the probe script that looks at the clone in dir.
// One git in it, and no other program unless the refs are many (a character is
// four bytes at most): processes are dear in an emulated guest.
func GuestProbe(dir string) string {
	return strings.NewReplacer("@DIR@", shellescape.Quote(dir), "@MARK@", guestscript.Mark,
		"@FEW@", strconv.Itoa(maxRefs/4), "@MOST@", strconv.Itoa(maxRefs)).Replace(probeText)
}

// ParseGuest reads the probe's answer. Branches and tags with names that git
// would not allow, or that are longer than those followed, are put aside.
func ParseGuest(b []byte) (Guest, error) {
	g := Guest{Heads: map[string]string{}, Tags: map[string]string{}, Wip: map[string]string{}, Odd: map[string]string{}}
	state, rest, _ := strings.Cut(string(b), "\n")
	g.State = GuestState(state)
	switch g.State {
	case Absent, Other, NoDir, Closed, NoGit:
		return g, nil
	case Broken:
		g.Why = strings.TrimSpace(rest)
		return g, nil
	case Clone:
	default:
		return g, fmt.Errorf("the guest's answer about its clone is not understood: %q", ui.CleanTo(state, 80))
	}
	head, rest, ok1 := strings.Cut(rest, "\n")
	marked, refs, ok2 := strings.Cut(rest, "\n")
	if !ok1 || !ok2 {
		return g, errors.New("the guest's answer about its clone is cut off")
	}
	if n := strings.TrimPrefix(head, "ref: refs/heads/"); n != head && BranchName(n) {
		g.Head = n
	}
	if BranchName(marked) {
		g.Marked = marked
	}
	g.More = len(refs) >= maxRefs
	for l := range strings.SplitSeq(refs, "\n") {
		oid, ref, ok := strings.Cut(l, " ")
		if !ok || !OID(oid) {
			continue
		}
		below, ok := strings.CutPrefix(ref, "refs/")
		kind, name, _ := strings.Cut(below, "/")
		if !ok {
			continue
		}
		if !BranchName(name) {
			if kind == "heads" || kind == "tags" {
				g.Odd[ref] = oid
			}
			continue
		}
		switch kind {
		case "heads":
			g.Heads[name] = oid
		case "tags":
			g.Tags[ref] = oid
		case "aivm":
			g.Wip[ref] = oid
		}
	}
	return g, nil
}

// Usable refuses a place in the guest that holds something that is no clone.
func (g Guest) Usable(vm, dir string) error {
	q := shellescape.Quote(dir)
	look := ui.CmdFor("look", "ssh "+vm+" ls -la "+shellescape.Quote(q))
	other := ui.Remark("or choose another place: --guest-dst PATH")
	switch g.State {
	case Other:
		return ui.Refused("guest target directory is not empty and is not a git repo: %s in VM %s", dir, vm).Hint(look, ui.Remark("move it away in the guest"), other)
	case NoDir:
		return ui.Refused("%s in VM %s is not a directory", dir, vm).Hint(look, ui.Remark("move it away in the guest"), other)
	case Closed:
		return ui.Refused("%s in VM %s cannot be used by the guest's user", dir, vm).Hint(look, other)
	case Broken:
		return ui.Refused("git in VM %s cannot use the clone in %s: %s", vm, dir, ui.CleanTo(g.Why, 300)).Hint(ui.CmdFor("look", "ssh "+vm+" git -C "+shellescape.Quote(q)+" status"), ui.Remark("move it away in the guest; the next run makes a new one"))
	case NoGit:
		return ui.Refused("git is not installed in VM %s", vm).Hint(ui.Cmd("ssh " + vm + " sudo apt-get install -y git"))
	}
	return nil
}

// DefaultDst is where a clone goes in the guest: the same place below the home
// of the guest's user, or below workspaces for a repository outside the home.
func DefaultDst(top, hostHome, user string) string {
	home := "/home/" + user
	if below, ok := strings.CutPrefix(top, strings.TrimSuffix(hostHome, "/")+"/"); ok && hostHome != "" && top != hostHome {
		return path.Join(home, below)
	}
	return path.Join(home, "workspaces", path.Base(top))
}
