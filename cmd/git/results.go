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
		if r.Relation == provision.GitVMAhead {
			a.UI.Say("branch %s was not pushed, since VM %s is %s ahead; to pull them: aivm git pull %s", r.Branch, r.VM, provision.Commits(r.Behind), q)
		}
	case r.Relation == provision.GitVMAhead:
		a.UI.Result("Nothing to push: VM %s is %s ahead on %s", r.VM, provision.Commits(r.Behind), r.Branch)
		a.UI.Say("to pull them: aivm git pull %s", q)
	default:
		a.UI.Result("Nothing to push: %s is the same in VM %s", r.Branch, r.VM)
	}
	switch {
	case r.Wip != "":
		a.UI.Result("%s", r.Wip)
	case r.Uncommitted > 0:
		a.UI.Say("%d uncommitted files were not pushed; to send them too: aivm git push %s --include-uncommitted", r.Uncommitted, q)
	}
}

func (a Verbs) printFetched(r provision.GitResult) {
	for _, l := range r.FetchedLines() {
		a.UI.Result("%s", l)
	}
	switch {
	case len(r.LeftOut) > 0:
		a.UI.Result("Not fetched from VM %s: %s", r.VM, ui.Some(r.LeftOut, 10))
	case len(r.Fetched) == 0:
		a.UI.Result("Nothing new in VM %s", r.VM)
	}
}

func (a Verbs) printPulled(r provision.GitResult) {
	if r.Count == 0 {
		a.UI.Result("Nothing to pull: VM %s has no commits on %s that are not here", r.VM, r.Branch)
		return
	}
	a.UI.Result("%s is now at %s: %s of VM %s, %d files", r.Branch, provision.Short(r.Head), provision.Commits(r.Count), r.VM, len(r.Changes))
	if len(r.ManualCommands) > 0 {
		a.sayFiltersNotRun(r)
	}
	for _, f := range r.RanFilters {
		a.UI.Say("The filter %s ran on %s, as you approved", f.Name, provision.Counted(len(f.Files), "file"))
	}
}

// sayFiltersNotRun prints which git filters were not run, and the commands to run them.
func (a Verbs) sayFiltersNotRun(r provision.GitResult) {
	n := 0
	var names []string
	for _, f := range r.Filters {
		n += len(f.Files)
		names = append(names, f.Name)
	}
	a.UI.Say("%s written as committed: the filter %s was not run; to run it after a review:", provision.Counted(n, "file"), ui.Some(names, 10))
	for _, l := range r.ManualCommands {
		a.UI.Say("  %s", l)
	}
}

func (a Verbs) printCompared(r provision.GitResult) {
	q := shellescape.Quote(r.Folder)
	a.UI.Result("%s: branch %s at %s", r.Folder, r.Branch, provision.Short(r.Head))
	if !r.Answers {
		a.UI.Result("VM %s does not answer; last known state:", r.VM)
	}
	where := fmt.Sprintf("%s in VM %s", r.GuestDst, r.VM)
	switch {
	case r.Guest != nil && r.Guest.State != provision.GitClone:
		a.UI.Result("The clone %s does not exist; to make it: aivm git push %s", where, q)
	case r.Relation == provision.GitUnseen || r.Guest != nil && len(r.Guest.News) > 0:
		var news []string
		if r.Guest != nil {
			news = r.Guest.News
		}
		a.UI.Result("The clone %s has unfetched commits on %s: aivm git fetch %s", where, strings.Join(news, ", "), q)
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
		a.UI.Result("The clone has branch %s checked out", r.Guest.Branch)
	}
	dirty, unknown := provision.Compared(r.Dirty)
	if len(dirty) > 0 {
		a.UI.Result("Not committed here: %s", provision.Entries(dirty))
	}
	if len(unknown) > 0 {
		a.UI.Result("Not checked here, since aivm runs no git filters: %s; to check: git -C %s status", provision.Entries(unknown), q)
	}
	if r.Guest != nil && len(r.Guest.Dirty) > 0 {
		a.UI.Result("Not committed in the VM: %s", provision.Entries(r.Guest.Dirty))
	}
}
