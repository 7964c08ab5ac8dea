package gitsync

import (
	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/internal/ui"
)

// CloneWork describes the work in one clone before the clone is deleted with its VM or left in it.
type CloneWork struct {
	Folder   string    `json:"folder"`
	GuestDst string    `json:"guest_dst"`
	Remote   string    `json:"remote,omitempty"`
	Known    bool      `json:"known"`
	Why      string    `json:"why,omitempty"` // why Known is false
	Fetched  []Fetched `json:"fetched"`       // by this run
	Only     Only      `json:"only_in_vm"`
}

// Missed reports whether deleting the clone may lose something.
func (c CloneWork) Missed() bool { return !c.Known || c.Only.Holds() }

// Lines describes the work for a person; names that come from the guest are cleaned.
func (c CloneWork) Lines() []string {
	var out []string
	if len(c.Fetched) > 0 {
		var names []string
		for _, f := range c.Fetched {
			names = append(names, f.Branch)
		}
		out = append(out, "fetched to refs/remotes/"+c.Remote+"/: "+ui.Some(names, 10))
	}
	only := c.Only.Lines()
	switch {
	case !c.Known:
		return append(out, "cannot check what exists only in the clone: "+c.Why)
	case !c.Only.Holds():
		out = append(out, "every commit in the clone is on this machine too")
	}
	for _, l := range only {
		out = append(out, "only in the clone: "+l)
	}
	return out
}

// KeepHints returns commands that put what exists only in the clone onto a branch, which is then
// fetched.
func (c CloneWork) KeepHints(vm string) []ui.Hint {
	var out []ui.Hint
	in := func(what, line string) {
		out = append(out, ui.CmdFor(what, "ssh "+vm+" "+shellescape.Quote("cd "+shellescape.Quote(c.GuestDst)+" && "+line)))
	}
	if len(c.Only.Files) > 0 {
		// The guest user may have no git identity.
		in("to commit the files", "git add -A && git -c user.name="+vm+" -c user.email=agent@"+vm+" commit -m wip")
	}
	if len(c.Only.Stashes) > 0 {
		in("to make the newest stash a branch", "git branch kept-stash stash")
	}
	if len(c.Only.Commits) > 0 {
		in("to make a commit a branch", "git branch kept "+c.Only.Commits[0])
	}
	if len(c.Only.Inside)+len(c.Only.Refs)+len(c.Only.Incomplete)+c.Only.LFS > 0 {
		out = append(out, ui.CmdFor("to inspect the rest", "ssh "+vm))
	}
	return out
}
