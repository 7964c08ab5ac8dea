package packets

import (
	"sync"
	"testing"

	"aivm.dev/aivm/internal/wall"
)

// Limits of a probe: one that should get through may be slow on a busy
// machine; one that should not is known to be quick when it does.
const (
	patience = 3000
	moment   = 300
)

// run sends the probes; those of frames one after the other, for they change
// what the machine has learned.
func run(t *testing.T, w *world, ps []probe, expect func(probe) bool) {
	t.Helper()
	var wg sync.WaitGroup
	slots := make(chan struct{}, 24)
	check := func(p probe) {
		want := expect(p)
		ms := moment
		if want {
			ms = patience
		}
		if err := p.send(w, ms); (err == nil) != want {
			t.Errorf("%s: %s: got through: %v, want %v (%v)", p.claim, p.name, err == nil, want, err)
		}
	}
	for _, p := range ps {
		if p.claim == "spoofing" {
			continue
		}
		wg.Go(func() {
			slots <- struct{}{}
			check(p)
			<-slots
		})
	}
	wg.Wait()
	for _, p := range ps {
		if p.claim == "spoofing" {
			if p.prime {
				primed(w)
			}
			check(p)
		}
	}
	w.forget()
}

func all(probe) bool            { return true }
func asClaimed(p probe) bool    { return p.open }
func throughRules(p probe) bool { return p.open && !p.six }

// TestPackets sends every probe with the rules and without them.
func TestPackets(t *testing.T) {
	w := newWorld(t)
	ps := probes()
	if len(ps) < 60 {
		t.Errorf("only %d probes", len(ps))
	}
	t.Logf("%d probes", len(ps))

	t.Run("without rules all get through", func(t *testing.T) { run(t, w, ps, all) })
	w.raise()
	t.Run("with them what is claimed does", func(t *testing.T) { run(t, w, ps, throughRules) })
	w.host.run("nft delete table bridge " + w.wall.Table() + "; nft delete table bridge " + w.other.Table())
	t.Run("the rules for IP alone", func(t *testing.T) {
		run(t, w, only(ps, func(p probe) bool { return p.claim != "spoofing" }), asClaimed)
	})
	w.lower()
	t.Run("flushed, they are gone", func(t *testing.T) {
		run(t, w, only(ps, func(p probe) bool { return p.claim != "spoofing" && !p.open }), all)
	})
	w.raise()
	t.Run("and back", func(t *testing.T) { run(t, w, ps, throughRules) })
	claimed := map[string]bool{"nat": true, "flush": true} // tests of their own
	for _, p := range ps {
		claimed[p.claim] = true
	}
	for _, c := range wall.Claims {
		if !claimed[c.ID] {
			t.Errorf("no probe for the claim %s", c.ID)
		}
	}
}

func only(ps []probe, keep func(probe) bool) []probe {
	var out []probe
	for _, p := range ps {
		if keep(p) {
			out = append(out, p)
		}
	}
	return out
}
