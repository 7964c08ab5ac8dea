package packets

import (
	"sync"
	"testing"

	"aivm.dev/aivm/internal/wall"
)

// Time limits of a probe in milliseconds. A probe that should get through may be slow on a busy
// machine. For one that should not, the short limit is enough: without rules it gets through quickly.
const (
	longWait  = 3000
	shortWait = 300
)

// run sends the probes in parallel and compares the results with expect. Spoofing probes are sent one
// after the other, because they change the host's neighbour and forwarding tables.
func run(t *testing.T, w *world, ps []probe, expect func(probe) bool) {
	t.Helper()
	var wg sync.WaitGroup
	slots := make(chan struct{}, 24)
	check := func(p probe) {
		want := expect(p)
		ms := shortWait
		if want {
			ms = longWait
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
				resetNeighbours(w)
			}
			check(p)
		}
	}
	w.flushLearned()
}

func all(probe) bool            { return true }
func asClaimed(p probe) bool    { return p.open }
func throughRules(p probe) bool { return p.open && !p.ipv6 }

// TestPackets sends every probe with the rules and without them.
func TestPackets(t *testing.T) {
	w := newWorld(t)
	ps := probes()
	if len(ps) < 60 {
		t.Errorf("only %d probes", len(ps))
	}
	t.Logf("%d probes", len(ps))

	t.Run("without rules, all get through", func(t *testing.T) { run(t, w, ps, all) })
	w.loadRules()
	t.Run("with rules, only the allowed ones", func(t *testing.T) { run(t, w, ps, throughRules) })
	w.host.run("nft delete table bridge " + w.wall.Table() + "; nft delete table bridge " + w.other.Table())
	t.Run("without the bridge rules", func(t *testing.T) {
		run(t, w, only(ps, func(p probe) bool { return p.claim != "spoofing" }), asClaimed)
	})
	w.flushRules()
	t.Run("flushed, all get through", func(t *testing.T) {
		run(t, w, only(ps, func(p probe) bool { return p.claim != "spoofing" && !p.open }), all)
	})
	w.loadRules()
	t.Run("loaded again", func(t *testing.T) { run(t, w, ps, throughRules) })
	claimed := map[string]bool{"nat": true, "flush": true} // TestDestinationNAT, TestFlushAndReload
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
