package transfer_test

import (
	"os"
	"testing"

	"aivm.dev/aivm/gitsync/clonetest"
	"aivm.dev/aivm/gitsync/transfer"
)

// What was fetched from a deleted clone is kept when a new clone takes its name.
func TestKeepTracked(t *testing.T) {
	p := clonetest.New(t)
	p.CommitH("a", "x")
	p.Sync()
	oldTip := p.CommitG("b", "x")
	p.GitG("switch", "-q", "-c", "merged")
	p.Sync()
	p.GitH("branch", "mine", p.Remote.Name+"/merged")
	p.GitG("switch", "-q", "-c", "idea/x")
	idea := p.CommitG("c", "x")
	h, g := p.Observe()
	if _, _, err := transfer.Fetch(t.Context(), p.Peer, h, *g); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(p.Guest); err != nil {
		t.Fatal(err)
	}
	kept, err := transfer.KeepTracked(t.Context(), *h)
	if err != nil || len(kept) != 1 || p.GitH("rev-parse", kept[0]) != idea {
		t.Fatalf("%v %v", kept, err)
	}
	// A second run after a kill gives the same result.
	if kept, err = transfer.KeepTracked(t.Context(), *h); err != nil || len(kept) != 0 {
		t.Errorf("%v %v", kept, err)
	}
	p.Sync()
	if got := p.GitH("for-each-ref", "--contains", oldTip, "--format=%(refname)"); got == "" {
		t.Error("the commit of the earlier clone is in no ref")
	}
}
