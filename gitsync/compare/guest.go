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

// GuestState is what the guest has at the clone's path.
type GuestState string

// The values of GuestState.
const (
	Absent GuestState = "absent" // nothing, or an empty directory
	Clone  GuestState = "repo"
	Other  GuestState = "other"  // a directory with something else in it
	NoDir  GuestState = "file"   // something that is not a directory
	Closed GuestState = "closed" // the guest user cannot read it
	Broken GuestState = "broken" // .git is there and git cannot use it
	NoGit  GuestState = "nogit"  // git is not installed in the guest
)

// Guest is what the guest reported about the clone. None of it is trusted.
type Guest struct {
	State         GuestState
	Why           string            // for Broken: git's message
	Head          string            // the branch checked out; "" with a detached HEAD
	Marked        string            // the branch aivm checked out last
	Heads         map[string]string // branches
	Tags          map[string]string // full names
	Wip           map[string]string // refs/aivm/..., full names
	UnsafeRefs    map[string]string // branches and tags that are not fetched because of their names, full names
	RefsTruncated bool              // there are more refs than were read
}

// maxRefs bounds the bytes read of a guest's refs, which is about 10,000 refs. The output of a
// probe is bounded too (guest.MaxAnswer).
const maxRefs = 800_000

//go:embed probe.sh
var probeText string

// GuestProbe returns the part of the probe script that reads the clone in dir. It starts one git
// process, and others only if there are many refs (a character is at most four bytes): processes
// are slow in an emulated guest.
func GuestProbe(dir string) string {
	return strings.NewReplacer("@DIR@", shellescape.Quote(dir), "@MARK@", guestscript.Mark,
		"@FEW@", strconv.Itoa(maxRefs/4), "@MOST@", strconv.Itoa(maxRefs)).Replace(probeText)
}

// ParseGuest parses the probe's output. Branches and tags with names that git does not allow, or
// that are too long, go to UnsafeRefs.
func ParseGuest(b []byte) (Guest, error) {
	g := Guest{Heads: map[string]string{}, Tags: map[string]string{}, Wip: map[string]string{}, UnsafeRefs: map[string]string{}}
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
		return g, fmt.Errorf("cannot parse the guest's report about its clone: %q", ui.CleanTo(state, 80))
	}
	head, rest, ok1 := strings.Cut(rest, "\n")
	marked, refs, ok2 := strings.Cut(rest, "\n")
	if !ok1 || !ok2 {
		return g, errors.New("the guest's report about its clone is incomplete")
	}
	if n := strings.TrimPrefix(head, "ref: refs/heads/"); n != head && BranchName(n) {
		g.Head = n
	}
	if BranchName(marked) {
		g.Marked = marked
	}
	g.RefsTruncated = len(refs) >= maxRefs
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
				g.UnsafeRefs[ref] = oid
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

// Usable refuses a guest path that holds something other than the clone.
func (g Guest) Usable(vm, dir string) error {
	q := shellescape.Quote(dir)
	inspect := ui.CmdFor("see what it is", "ssh "+vm+" ls -la "+shellescape.Quote(q))
	other := ui.Remark("or choose another guest path with --guest-dst")
	switch g.State {
	case Other:
		return ui.Refused("guest target directory is not empty and is not a git repo: %s in VM %s", dir, vm).Hint(inspect, ui.Remark("move it to another place in the guest"), other)
	case NoDir:
		return ui.Refused("%s in VM %s is not a directory", dir, vm).Hint(inspect, ui.Remark("move it to another place in the guest"), other)
	case Closed:
		return ui.Refused("%s in VM %s cannot be read by the guest user", dir, vm).Hint(inspect, other)
	case Broken:
		return ui.Refused("git in VM %s cannot use the clone in %s: %s", vm, dir, ui.CleanTo(g.Why, 300)).Hint(ui.CmdFor("see git's message", "ssh "+vm+" git -C "+shellescape.Quote(q)+" status"), ui.Remark("move it to another place in the guest; the next run creates a new clone"))
	case NoGit:
		return ui.Refused("git is not installed in VM %s", vm).Hint(ui.Cmd("ssh " + vm + " sudo apt-get install -y git"))
	}
	return nil
}

// DefaultDst returns the default guest path of a clone: the same path relative to the guest user's
// home, or below workspaces for a repository outside the host user's home.
func DefaultDst(top, hostHome, user string) string {
	home := "/home/" + user
	if below, ok := strings.CutPrefix(top, strings.TrimSuffix(hostHome, "/")+"/"); ok && hostHome != "" && top != hostHome {
		return path.Join(home, below)
	}
	return path.Join(home, "workspaces", path.Base(top))
}
