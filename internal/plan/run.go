package plan

import (
	"context"
	"errors"
	"fmt"

	"aivm.dev/aivm/internal/root"
)

// ErrStale is returned by an action that finds other facts than those it was
// planned from (an address was taken in between): the caller observes and plans
// again.
var ErrStale = errors.New("the facts changed, observe again")

// ErrUnneeded is returned by an action that had nothing to do, as the actions before
// it showed. The run continues.
var ErrUnneeded = errors.New("nothing to do")

// Runner applies plans.
type Runner struct {
	Root root.Applier
	// Hook, if set, is called at every fault point; the test binary kills
	// itself there. The released program leaves it nil.
	Hook func(point string)
	// Started is called before each action; the returned functions receive its
	// progress and its result, which may be ErrUnneeded.
	Started func(Action) (progress func(detail string, fraction float64), done func(error))
	// Note, if set, receives the remark of the privileged helper on an action
	// that succeeded.
	Note func(Action, string)
}

type progressKey struct{}

// Report shows the user the progress of the running action. fraction is 0 to 1;
// below 0 it is unknown.
func Report(ctx context.Context, detail string, fraction float64) {
	if f, ok := ctx.Value(progressKey{}).(func(string, float64)); ok && f != nil {
		f(detail, fraction)
	}
}

// Run applies the actions in order and stops at the first error. It stops with
// again set after an action marked Again and at ErrStale: the caller observes and
// plans again.
func (r Runner) Run(ctx context.Context, p Plan) (again bool, err error) {
	for _, a := range p.Actions {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		if err := r.runAction(ctx, a); err != nil && !errors.Is(err, ErrUnneeded) {
			if errors.Is(err, ErrStale) {
				return true, nil
			}
			if a.Fail != nil && ctx.Err() == nil {
				if err = a.Fail(err); err == nil {
					continue
				}
			}
			return false, err
		}
		if a.Again {
			return true, nil
		}
	}
	return false, nil
}

func (r Runner) runAction(ctx context.Context, a Action) (err error) {
	faultPoint := func(when string) {
		if r.Hook != nil {
			r.Hook(a.ID + ":" + when)
		}
	}
	progress, done := func(string, float64) {}, func(error) {}
	if r.Started != nil {
		progress, done = r.Started(a)
	}
	defer func() { done(err) }()
	faultPoint("before")
	actionCtx := context.WithValue(ctx, progressKey{}, progress)
	switch {
	case a.Root != nil:
		if a.Guard != nil {
			release, err := a.Guard(actionCtx)
			if err != nil {
				return fmt.Errorf("%s: %w", a.Why, err)
			}
			defer release()
		}
		res, err := r.Root.Do(ctx, a.Root, progress)
		if err != nil {
			return fmt.Errorf("%s: %w", a.Why, err)
		}
		if res.Note != "" && r.Note != nil {
			r.Note(a, res.Note)
		}
		if a.Got != nil {
			if err := a.Got(actionCtx, res); err != nil {
				return fmt.Errorf("%s: %w", a.Why, err)
			}
		}
	case a.Do != nil:
		if err := a.Do(actionCtx); errors.Is(err, ErrUnneeded) {
			faultPoint("after")
			return err
		} else if err != nil {
			return fmt.Errorf("%s: %w", a.Why, err)
		}
	}
	faultPoint("after")
	return nil
}
