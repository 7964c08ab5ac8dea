package settings

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/loop/looptest"
	"aivm.dev/aivm/provision/target"
	"aivm.dev/aivm/settingsync"
)

// receivingGuest is a guest that receives settings, except in its first refuse sessions.
type receivingGuest struct {
	guest.Conn
	refuse, runs int
	got          []string
}

func (g *receivingGuest) Run(_ context.Context, c guest.Cmd) (int, error) {
	if g.runs++; g.runs <= g.refuse {
		return -1, errors.New("no further session")
	}
	b, err := io.ReadAll(c.Stdin)
	if len(b) > 0 {
		g.got = append(g.got, string(b))
	}
	return 0, err
}

// wanted returns a target with settings to send.
func wanted(early bool) (*target.Target, *loop.Facts) {
	in := (&target.Target{}).WithSettings(target.Settings{Early: early})
	return in, &loop.Facts{Progress: loop.NewProgress(in)}
}

// TestTheReceiverStartedEarly: Send uses the receiver that was started with the probe, once, and
// only on its own connection.
func TestTheReceiverStartedEarly(t *testing.T) {
	for what, c := range map[string]struct {
		early, gone, moved bool
		refuse, runs       int
	}{
		"not started":           {runs: 1},
		"started":               {early: true, runs: 1},
		"refused":               {early: true, gone: true, refuse: 1, runs: 2},
		"of another connection": {early: true, moved: true, runs: 1},
	} {
		w := looptest.New(t)
		g := &receivingGuest{refuse: c.refuse}
		in, f := wanted(c.early)
		s := f.Settings
		s.Round = &settingsync.Round{}
		first := g
		if c.moved {
			first = &receivingGuest{}
		}
		StartEarly(t.Context(), in, f, first)
		if c.gone {
			<-s.Receiver.Done
		}
		f.Conn = g
		if err := For(w.Loop).Send(t.Context(), in, f); err != nil || s.Err != nil {
			t.Errorf("%s: %v %v", what, err, s.Err)
		}
		if g.runs != c.runs || len(g.got) != 1 || !strings.HasSuffix(g.got[0], "end\n") {
			t.Errorf("%s: %d runs, %q", what, g.runs, g.got)
		}
	}
}

// TestAReceiverThatIsNotNeeded: a receiver that gets no data ends, also in a guest that ignores it.
func TestAReceiverThatIsNotNeeded(t *testing.T) {
	g := &receivingGuest{}
	in, f := wanted(true)
	s := f.Settings
	StartEarly(t.Context(), in, f, g)
	if !s.StopReceiver() || s.StopReceiver() || len(g.got) > 0 {
		t.Errorf("%q", g.got)
	}
	StartEarly(t.Context(), in, f, deafGuest{})
	s.StopReceiver()
	StartEarly(t.Context(), &target.Target{}, &loop.Facts{}, g)
}

type deafGuest struct{ guest.Conn }

func (deafGuest) Run(ctx context.Context, _ guest.Cmd) (int, error) {
	<-ctx.Done()
	return -1, ctx.Err()
}
