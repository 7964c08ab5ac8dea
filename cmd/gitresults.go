package cmd

import (
	"fmt"
	"strings"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision"
)

func (a *app) printPushed(r provision.GitResult) {
	q := shellescape.Quote(r.Folder)
	switch {
	case len(r.Pushed) > 0:
		a.ui.Result("Pushed to VM %s: %s", r.VM, strings.Join(r.Pushed, ", "))
	case r.Relation == provision.GitVMAhead:
		a.ui.Result("Nothing to push: VM %s is %s ahead on %s", r.VM, provision.Commits(r.Behind), r.Branch)
		a.ui.Say("to take them over: aivm git pull %s", q)
	default:
		a.ui.Result("Nothing to push: VM %s has %s as it is here", r.VM, r.Branch)
	}
	switch {
	case r.Wip != "":
		a.ui.Result("%s", r.Wip)
	case r.Uncommitted > 0:
		a.ui.Say("%d files are not committed here and were not pushed; to send them too: aivm git push %s --include-uncommitted", r.Uncommitted, q)
	}
}

func (a *app) printFetched(r provision.GitResult) {
	for _, l := range r.FetchedLines() {
		a.ui.Result("%s", l)
	}
	if len(r.Fetched) == 0 {
		a.ui.Result("Nothing new in VM %s", r.VM)
	}
}

func (a *app) printPulled(r provision.GitResult) {
	if r.Count == 0 {
		a.ui.Result("Nothing to take over: VM %s has no commits on %s that are not here", r.VM, r.Branch)
		return
	}
	a.ui.Result("%s is now at %s: %s of VM %s, %d files", r.Branch, provision.Short(r.Head), provision.Commits(r.Count), r.VM, len(r.Brings))
	if len(r.ByHand) > 0 {
		a.sayUnfiltered(r)
	}
	for _, f := range r.Agreed {
		a.ui.Say("The filter %s ran on %s, as agreed", f.Name, provision.Counted(len(f.Files), "file"))
	}
}

// sayUnfiltered says how to finish by hand what filters would have done.
func (a *app) sayUnfiltered(r provision.GitResult) {
	n := 0
	var names []string
	for _, f := range r.Filters {
		n += len(f.Files)
		names = append(names, f.Name)
	}
	a.ui.Say("%s as committed, without the filter %s, which was not run; to run it, once you have looked:", provision.Counted(n, "file"), ui.Some(names, 10))
	for _, l := range r.ByHand {
		a.ui.Say("  %s", l)
	}
}

func (a *app) printCompared(r provision.GitResult) {
	q := shellescape.Quote(r.Folder)
	a.ui.Result("%s: branch %s at %s", r.Folder, r.Branch, provision.Short(r.Head))
	if !r.Answers {
		a.ui.Result("VM %s does not answer; as it was last seen:", r.VM)
	}
	where := fmt.Sprintf("%s in VM %s", r.GuestDst, r.VM)
	switch {
	case r.Guest != nil && r.Guest.State != provision.GitClone:
		a.ui.Result("The clone %s is not there; to make it: aivm git push %s", where, q)
	case r.Relation == provision.GitUnseen || r.Guest != nil && len(r.Guest.News) > 0:
		var news []string
		if r.Guest != nil {
			news = r.Guest.News
		}
		a.ui.Result("The clone %s has commits that were not fetched, on %s: aivm git fetch %s", where, strings.Join(news, ", "), q)
	case r.Relation == provision.GitSame:
		a.ui.Result("The clone %s has the same commits", where)
	case r.Relation == provision.GitDiverged:
		a.ui.Result("Diverged from the clone %s: %s here, %s there: git merge %s/%s", where, provision.Commits(r.Ahead), provision.Commits(r.Behind), r.Remote, r.Branch)
	case r.Relation == provision.GitVMAhead:
		a.ui.Result("The clone %s is %s ahead: aivm git pull %s", where, provision.Commits(r.Behind), q)
	case r.Relation == provision.GitHostAhead:
		a.ui.Result("The clone %s is %s behind: aivm git push %s", where, provision.Commits(r.Ahead), q)
	default:
		a.ui.Result("The clone %s has no branch %s: aivm git push %s", where, r.Branch, q)
	}
	if r.Guest != nil && r.Guest.Branch != "" && r.Guest.Branch != r.Branch {
		a.ui.Result("Branch %s is checked out there", r.Guest.Branch)
	}
	dirty, unknown := provision.Compared(r.Dirty)
	if len(dirty) > 0 {
		a.ui.Result("Not committed here: %s", provision.Entries(dirty))
	}
	if len(unknown) > 0 {
		a.ui.Result("Not compared here, since aivm runs no filters: %s; to compare: git -C %s status", provision.Entries(unknown), q)
	}
	if r.Guest != nil && len(r.Guest.Dirty) > 0 {
		a.ui.Result("Not committed there: %s", provision.Entries(r.Guest.Dirty))
	}
}
