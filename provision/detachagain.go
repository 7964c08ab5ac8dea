package provision

import (
	"context"
	"errors"
	"time"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/provision/share"
)

// unbindPause is how long another run's look at the guest's folders may take
// until the guest is asked again.
const unbindPause = 500 * time.Millisecond

// unbindAgain has the guest forget a folder once more that it had let go of and
// whose mount was in use all the same. A `code` or `ssh` beside this run, which
// has seen the record from before, looks at all folders in one probe; the guest
// then remembers this one again, and virtiofsd holds it. The third time it is
// no accident. p is the plan that failed with err; its rest is run again.
func (e *Env) unbindAgain(ctx context.Context, l *leaving, f *facts, p plan.Plan, err error) error {
	token := share.Token(l.att.HostPath)
	from := -1
	for i, a := range p.Actions {
		if a.ID == "share.unbind:"+token {
			from = i
		}
	}
	if from < 0 || !f.asks() {
		return err
	}
	rest := plan.Plan{Stage: p.Stage, Actions: p.Actions[from:]}
	for range 2 {
		if ctx.Err() != nil || !errors.Is(err, root.ErrInUse) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(unbindPause):
		}
		if rerr := e.releaseAll(ctx, l, f); rerr != nil {
			return err // what the mount said says more
		}
		if _, err = e.run(ctx, rest); err == nil {
			return nil
		}
	}
	return err
}
