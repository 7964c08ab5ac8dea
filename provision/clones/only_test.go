package clones

import (
	"testing"

	"aivm.dev/aivm/gitsync"
)

// TestSameWork: a reason that differs each time, such as one with the name of a temporary
// directory, does not count as different work; different files do.
func TestSameWork(t *testing.T) {
	work := func(incomplete ...string) []gitsync.CloneWork {
		return []gitsync.CloneWork{{Folder: "/p", GuestDst: "/g", Known: true, Only: gitsync.Only{Files: []gitsync.StatusEntry{{Code: "??", Path: "a"}}, Incomplete: incomplete}}}
	}
	const fetch = "its new commits could not be fetched: "
	a := work(fetch+"mkdir tmp_objdir-aivm-12: no space left", "it has more branches and tags than aivm reads")
	b := work(fetch+"mkdir tmp_objdir-aivm-34: no space left", "it has more branches and tags than aivm reads")
	if !SameWork(a, b) {
		t.Error("another reason counts as different work")
	}
	if a[0].Only.Incomplete[0] == b[0].Only.Incomplete[0] {
		t.Error("the comparison changed what it compared")
	}
	if SameWork(a, work(fetch+"mkdir tmp_objdir-aivm-12: no space left")) {
		t.Error("a missing incomplete entry counts as the same work")
	}
	b[0].Only.Files[0].Path = "b"
	if SameWork(a, b) {
		t.Error("another file counts as the same work")
	}
}
