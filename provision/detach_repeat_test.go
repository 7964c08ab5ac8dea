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

// busy is a privileged helper whose first times requests fail with err.
type busy struct {
	*looptest.World
	times int
	err   error
}

func (b *busy) Do(ctx context.Context, op root.Op, p root.Progress) (root.Result, error) {
	if b.times--; b.times >= 0 {
		b.Ops = append(b.Ops, op)
		return root.Result{}, b.err
	}
	return b.World.Do(ctx, op, p)
}

// If the guest uses the folder again because another run probed it, the folder is unmounted again.
// It is not, if it stays in use or the unmount fails for another reason.
func TestUnbindAgain(t *testing.T) {
	inUse := fmt.Errorf("x %w: virtiofsd (pid 1)", root.ErrInUse)
	for name, c := range map[string]struct {
		times, asked int
		err          error
		ok           bool
	}{
		"once":          {1, 1, inUse, true},
		"twice":         {2, 2, inUse, true},
		"permanently":   {9, 2, inUse, false},
		"another error": {1, 0, errors.New("no such helper"), false},
	} {
		w := newWorld(t)
		p := w.MakeFolder("p")
		w.WriteConfig(p)
		w.Timing = ui.NewTiming()
		tgt := looptest.SavedTarget(w, p)
		g := &looptest.FakeGuest{Share: looptest.GuestAnswer(t, 1000)}
		l := &folders.Detachment{W: tgt, Att: *tgt.Folder, Rec: true}
		b := &busy{World: w, times: c.times, err: c.err}
		w.Root = b
		rest := plan.Plan{Stage: plan.Host, Actions: []plan.Action{
			{ID: "share.unbind:" + share.Token(p), Why: "unmount it", Root: root.Unbind{VMKey: "4321-t", Token: share.Token(p)}},
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
