package plan

import (
	"context"
	"errors"
	"fmt"

	"aivm.dev/aivm/internal/root"
)

// ErrStale is returned by an action that found the facts changed under it (an
// address taken meanwhile): the caller observes and plans again.
var ErrStale = errors.New("the facts changed, observe again")

// Runner applies plans.
type Runner struct {
	Root root.Applier
	// Hook, if set, is called at every fault point; the test binary kills
	// itself there. The shipped program sets none.
	Hook func(point string)
	// Started is called before each action; the returned functions take its
	// progress and its end.
	Started func(Action) (progress func(detail string, fraction float64), done func(error))
	// Note, if set, is told what the privileged helper found worth saying.
	Note func(Action, string)
}

type progressKey struct{}

// Report tells the person how far the running action is. A fraction below 0
// is unknown.
func Report(ctx context.Context, detail string, fraction float64) {
	if f, ok := ctx.Value(progressKey{}).(func(string, float64)); ok && f != nil {
		f(detail, fraction)
	}
}

// Run applies the actions in order and stops at the first error. After an
// action marked Again it stops and reports true: observe and plan anew.
func (r Runner) Run(ctx context.Context, p Plan) (again bool, err error) {
	for _, a := range p.Actions {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		if err := r.one(ctx, a); err != nil {
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

func (r Runner) one(ctx context.Context, a Action) (err error) {
	point := func(when string) {
		if r.Hook != nil {
			r.Hook(a.ID + ":" + when)
		}
	}
	progress, done := func(string, float64) {}, func(error) {}
	if r.Started != nil {
		progress, done = r.Started(a)
	}
	defer func() { done(err) }()
	point("before")
	inside := context.WithValue(ctx, progressKey{}, progress)
	switch {
	case a.Root != nil:
		if a.Guard != nil {
			release, err := a.Guard(inside)
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
			if err := a.Got(inside, res); err != nil {
				return fmt.Errorf("%s: %w", a.Why, err)
			}
		}
	case a.Do != nil:
		if err := a.Do(inside); err != nil {
			return fmt.Errorf("%s: %w", a.Why, err)
		}
	}
	point("after")
	return nil
}
