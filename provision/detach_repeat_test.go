package provision

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/folders"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/loop/looptest"
	"aivm.dev/aivm/provision/share"
)

// busy is a helper whose mount is in use some times.
type busy struct {
	*looptest.World
	times int
	says  error
}

func (b *busy) Do(ctx context.Context, op root.Op, p root.Progress) (root.Result, error) {
	if b.times--; b.times >= 0 {
		b.Ops = append(b.Ops, op)
		return root.Result{}, b.says
	}
	return b.World.Do(ctx, op, p)
}

// A folder the guest remembers again because another run looked at it is let go
// of again; one that stays in use, or cannot go for another reason, is not.
func TestUnbindAgain(t *testing.T) {
	inUse := fmt.Errorf("x %w: virtiofsd (pid 1)", root.ErrInUse)
	for name, c := range map[string]struct {
		times, asked int
		says         error
		ok           bool
	}{
		"once":          {1, 1, inUse, true},
		"twice":         {2, 2, inUse, true},
		"for good":      {9, 2, inUse, false},
		"another error": {1, 0, errors.New("no such helper"), false},
	} {
		w := newWorld(t)
		p := w.MakeFolder("p")
		w.WriteConfig(p)
		w.Timing = ui.NewTiming()
		in := looptest.SavedTarget(w, p)
		g := &looptest.FakeGuest{Share: looptest.GuestAnswer(t, 1000)}
		l := &folders.Detachment{W: in, Att: *in.Folder, Rec: true}
		b := &busy{World: w, times: c.times, says: c.says}
		w.Root = b
		rest := plan.Plan{Stage: plan.Host, Actions: []plan.Action{
			{ID: "share.unbind:" + share.Token(p), Why: "take it away", Root: root.Unbind{VMKey: "4321-t", Token: share.Token(p)}},
			folders.For(w.Loop).DropRecord(l.Att),
		}}
		_, err := w.Run(t.Context(), rest)
		err = folders.For(w.Loop).RetryUnbind(t.Context(), l, &loop.Facts{Conn: g}, rest, err)
		_, recorded := looptest.RecordOf(w, p)
		if (err == nil) != c.ok || recorded == c.ok || len(g.Scripts) != c.asked {
			t.Errorf("%s: %v, recorded %v, the guest was asked %d times", name, err, recorded, len(g.Scripts))
		}
	}
}
