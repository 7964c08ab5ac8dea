package git

import (
	"fmt"
	"strings"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision"
)

func (a Verbs) printPushed(r provision.GitResult) {
	q := shellescape.Quote(r.Folder)
	switch {
	case len(r.Pushed) > 0:
		a.UI.Result("Pushed to VM %s: %s", r.VM, strings.Join(r.Pushed, ", "))
	case r.Relation == provision.GitVMAhead:
		a.UI.Result("Nothing to push: VM %s is %s ahead on %s", r.VM, provision.Commits(r.Behind), r.Branch)
		a.UI.Say("to take them over: aivm git pull %s", q)
	default:
		a.UI.Result("Nothing to push: VM %s has %s as it is here", r.VM, r.Branch)
	}
	switch {
	case r.Wip != "":
		a.UI.Result("%s", r.Wip)
	case r.Uncommitted > 0:
		a.UI.Say("%d files are not committed here and were not pushed; to send them too: aivm git push %s --include-uncommitted", r.Uncommitted, q)
	}
}

func (a Verbs) printFetched(r provision.GitResult) {
	for _, l := range r.FetchedLines() {
		a.UI.Result("%s", l)
	}
	if len(r.Fetched) == 0 {
		a.UI.Result("Nothing new in VM %s", r.VM)
	}
}

func (a Verbs) printPulled(r provision.GitResult) {
	if r.Count == 0 {
		a.UI.Result("Nothing to take over: VM %s has no commits on %s that are not here", r.VM, r.Branch)
		return
	}
	a.UI.Result("%s is now at %s: %s of VM %s, %d files", r.Branch, provision.Short(r.Head), provision.Commits(r.Count), r.VM, len(r.Changes))
	if len(r.ManualCommands) > 0 {
		a.sayUnfiltered(r)
	}
	for _, f := range r.RanFilters {
		a.UI.Say("The filter %s ran on %s, as agreed", f.Name, provision.Counted(len(f.Files), "file"))
	}
}

// sayUnfiltered says how to finish by hand what filters would have done.
func (a Verbs) sayUnfiltered(r provision.GitResult) {
	n := 0
	var names []string
	for _, f := range r.Filters {
		n += len(f.Files)
		names = append(names, f.Name)
	}
	a.UI.Say("%s as committed, without the filter %s, which was not run; to run it, once you have looked:", provision.Counted(n, "file"), ui.Some(names, 10))
	for _, l := range r.ManualCommands {
		a.UI.Say("  %s", l)
	}
}

func (a Verbs) printCompared(r provision.GitResult) {
	q := shellescape.Quote(r.Folder)
	a.UI.Result("%s: branch %s at %s", r.Folder, r.Branch, provision.Short(r.Head))
	if !r.Answers {
		a.UI.Result("VM %s does not answer; as it was last seen:", r.VM)
	}
	where := fmt.Sprintf("%s in VM %s", r.GuestDst, r.VM)
	switch {
	case r.Guest != nil && r.Guest.State != provision.GitClone:
		a.UI.Result("The clone %s is not there; to make it: aivm git push %s", where, q)
	case r.Relation == provision.GitUnseen || r.Guest != nil && len(r.Guest.News) > 0:
		var news []string
		if r.Guest != nil {
			news = r.Guest.News
		}
		a.UI.Result("The clone %s has commits that were not fetched, on %s: aivm git fetch %s", where, strings.Join(news, ", "), q)
	case r.Relation == provision.GitSame:
		a.UI.Result("The clone %s has the same commits", where)
	case r.Relation == provision.GitDiverged:
		a.UI.Result("Diverged from the clone %s: %s here, %s there: git merge %s/%s", where, provision.Commits(r.Ahead), provision.Commits(r.Behind), r.Remote, r.Branch)
	case r.Relation == provision.GitVMAhead:
		a.UI.Result("The clone %s is %s ahead: aivm git pull %s", where, provision.Commits(r.Behind), q)
	case r.Relation == provision.GitHostAhead:
		a.UI.Result("The clone %s is %s behind: aivm git push %s", where, provision.Commits(r.Ahead), q)
	default:
		a.UI.Result("The clone %s has no branch %s: aivm git push %s", where, r.Branch, q)
	}
	if r.Guest != nil && r.Guest.Branch != "" && r.Guest.Branch != r.Branch {
		a.UI.Result("Branch %s is checked out there", r.Guest.Branch)
	}
	dirty, unknown := provision.Compared(r.Dirty)
	if len(dirty) > 0 {
		a.UI.Result("Not committed here: %s", provision.Entries(dirty))
	}
	if len(unknown) > 0 {
		a.UI.Result("Not compared here, since aivm runs no filters: %s; to compare: git -C %s status", provision.Entries(unknown), q)
	}
	if r.Guest != nil && len(r.Guest.Dirty) > 0 {
		a.UI.Result("Not committed there: %s", provision.Entries(r.Guest.Dirty))
	}
}
