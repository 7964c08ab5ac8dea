package gitsync

import (
	"context"
	"testing"
)

// TestNothingInCommon: a guest that starts its branch from nothing is fetched,
// and what it brings is told against the branch here.
func TestNothingInCommon(t *testing.T) {
	p := newPair(t)
	p.commitH("same", "s\n")
	head := p.commitH("a.txt", "one\n")
	p.sync()
	p.gitG("checkout", "-q", "--orphan", "other")
	p.commitG(".gitattributes", "* filter=x\n")
	p.gitG("branch", "-q", "-D", "main")
	p.gitG("branch", "-q", "-m", "main")
	h, g := p.observe()
	if _, _, err := Fetch(context.Background(), p.peer, h, *g); err != nil {
		t.Fatal(err)
	}
	h, _ = p.observe()
	equal(t, "tracking", h.Tracked["main"], p.gitG("rev-parse", "main"))
	from, err := Base(context.Background(), *h)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "base", from, head)
	cs, err := Changes(context.Background(), *h, from, h.Tracked["main"])
	if err != nil || len(cs) != 1 {
		t.Fatalf("%+v, %v", cs, err)
	}
	equal(t, "hazards", p.hazards(h, cs), ".gitattributes")
	// One that is broken is no such case.
	h.Tracked["main"] = "0123456789012345678901234567890123456789"
	if from, err := Base(context.Background(), *h); err == nil {
		t.Errorf("a commit that is not there: %s", from)
	}
}
