package pull_test

import (
	"context"
	"testing"

	"aivm.dev/aivm/gitsync/clonetest"
	"aivm.dev/aivm/gitsync/gittest"
	"aivm.dev/aivm/gitsync/pull"
	"aivm.dev/aivm/gitsync/transfer"
)

// TestNothingInCommon checks that a guest branch without common history is fetched, and that its
// changes are listed against the host's branch.
func TestNothingInCommon(t *testing.T) {
	p := clonetest.New(t)
	p.CommitH("same", "s\n")
	head := p.CommitH("a.txt", "one\n")
	p.Sync()
	p.GitG("checkout", "-q", "--orphan", "other")
	p.CommitG(".gitattributes", "* filter=x\n")
	p.GitG("branch", "-q", "-D", "main")
	p.GitG("branch", "-q", "-m", "main")
	h, g := p.Observe()
	if _, _, err := transfer.Fetch(context.Background(), p.Peer, h, *g); err != nil {
		t.Fatal(err)
	}
	h, _ = p.Observe()
	gittest.Equal(t, "tracking", h.Tracked["main"], p.GitG("rev-parse", "main"))
	from, err := pull.Base(context.Background(), *h)
	if err != nil {
		t.Fatal(err)
	}
	gittest.Equal(t, "base", from, head)
	cs, err := pull.Changes(context.Background(), *h, from, h.Tracked["main"])
	if err != nil || len(cs) != 1 {
		t.Fatalf("%+v, %v", cs, err)
	}
	gittest.Equal(t, "hazards", hazards(p, h, cs), ".gitattributes")
	// A missing commit is an error, not a missing merge base.
	h.Tracked["main"] = "0123456789012345678901234567890123456789"
	if from, err := pull.Base(context.Background(), *h); err == nil {
		t.Errorf("a commit that is not there: %s", from)
	}
}
