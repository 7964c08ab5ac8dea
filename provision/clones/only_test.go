package clones

import (
	"testing"

	"aivm.dev/aivm/gitsync"
)

// A reason that reads otherwise each time, as the name of a temporary directory
// in it does, is not taken for other work; other work is.
func TestSameWork(t *testing.T) {
	work := func(incomplete ...string) []gitsync.CloneWork {
		return []gitsync.CloneWork{{Folder: "/p", GuestDst: "/g", Known: true, Only: gitsync.Only{Files: []gitsync.StatusEntry{{Code: "??", Path: "a"}}, Incomplete: incomplete}}}
	}
	const fetch = "what was committed there could not be fetched: "
	a := work(fetch+"mkdir tmp_objdir-aivm-12: no space left", "it has more branches and tags than are read")
	b := work(fetch+"mkdir tmp_objdir-aivm-34: no space left", "it has more branches and tags than are read")
	if !SameWork(a, b) {
		t.Error("another reason is taken for other work")
	}
	if a[0].Only.Incomplete[0] == b[0].Only.Incomplete[0] {
		t.Error("the comparison changed what it compared")
	}
	if SameWork(a, work(fetch+"mkdir tmp_objdir-aivm-12: no space left")) {
		t.Error("something more that is not seen is taken for the same")
	}
	b[0].Only.Files[0].Path = "b"
	if SameWork(a, b) {
		t.Error("another file is taken for the same")
	}
}
