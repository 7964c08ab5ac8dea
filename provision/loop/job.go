package loop

import (
	"context"
	"errors"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
)

// maxRounds bounds how often the world may change between two looks before that
// is said.
const maxRounds = 12

// A Job is one verb as the loop sees it. Only Plan is needed.
type Job struct {
	// VM is the name of the VM that is changed; one run at a time works on a VM.
	// nil: the verb is about no VM. It is a function since a name nobody chose may
	// be given up for the next.
	VM func() string
	// LockFirst takes the lock before the first look, for what asks no question:
	// a second look would cost a login.
	LockFirst bool
	// Trust says that the first look counts under the lock too, if nobody was
	// waited for and nobody was asked. nil: it is looked again.
	FactsCurrent func() bool

	// Plan looks at the world and returns what is missing. plan.ErrStale has it
	// called again.
	Plan func(ctx context.Context) (plan.Plan, error)
	// Later are sentences on what follows in the guest.
	Later func() []string
	// Needs says what of the verb needs a yes although this plan does not show it
	// yet; "" if nothing does for sure.
	NeedsConsent func() string
	// Dry is what a dry run ends with; nil: the plan.
	Dry func(plan.Plan) error
	// Before is called once, before a person is asked.
	Before func()

	// Refresh reads the records again, after another run may have changed them.
	Refresh func() error
	// Gone says why a look that failed is no wonder; nil if it is one.
	ExplainError func() error
	// Keep is called instead of Again before a look that follows at once.
	KeepConn func()
	// Again closes what the last look opened: another follows, or none.
	CloseFacts func()
	// Ran is told of a plan that was applied. stale says that it was cut short by
	// an action that wants another look.
	Applied func(p plan.Plan, stale bool)
	// Failed is told the error of a plan that could not be applied, and returns
	// what the verb ends with; nil: Then follows. locked says that the lock is held.
	Failed func(ctx context.Context, p plan.Plan, locked bool, err error) error
	// Leave is called before the lock is given back, however the verb ends.
	BeforeUnlock func()
	// Then is the rest, still under the lock. changed says that the last plan was
	// not empty.
	Then func(ctx context.Context, changed, locked bool) error
}

// Bring runs the one loop for a verb: look and plan, show, ask for consent, take
// the lock, apply. It returns whether anything was applied. A dry run ends with
// a *session.DryRun.
func (e Loop) RunJob(ctx context.Context, j Job) (applied bool, err error) {
	r := round{Loop: e, job: j, unlock: func() {}}
	defer func() {
		if r.locked {
			call(j.BeforeUnlock)
		}
		r.unlock()
	}()
	if j.LockFirst && !e.DryRun {
		if _, err := r.lock(ctx); err != nil {
			return false, err
		}
	}
	for range maxRounds {
		p, err := j.Plan(ctx)
		e.PrintNotes(p)
		if errors.Is(err, plan.ErrStale) {
			call(j.CloseFacts)
			continue
		}
		if err != nil {
			call(j.CloseFacts)
			if again, err := r.lookFailed(ctx, err); !again {
				return applied, err
			}
			continue
		}
		if e.DryRun {
			call(j.CloseFacts)
			return false, r.dry(p)
		}
		again, err := r.agree(ctx, p)
		if err != nil {
			call(j.CloseFacts)
			return applied, err
		}
		if again {
			continue
		}
		applied = applied || !p.Empty()
		again, err = e.Run(ctx, p)
		if err != nil {
			if j.Failed == nil {
				call(j.CloseFacts)
				return applied, e.WithRerunHint(err)
			}
			if err = j.Failed(ctx, p, r.locked, err); err != nil {
				return applied, err
			}
		} else if j.Applied != nil {
			j.Applied(p, again)
		}
		if again {
			call(j.CloseFacts)
			e.ForgetHost()
			continue
		}
		if j.Then != nil {
			err = j.Then(ctx, !p.Empty(), r.locked)
		}
		return applied, err
	}
	return applied, ui.Failed("the host keeps changing under aivm, %d looks were not enough", maxRounds).Hint(ui.CmdFor("try again", e.Rerun))
}

// Agree has a plan agreed to; later are sentences on what follows it. It is the one
// place where that is asked.
func (e Loop) AskConsent(ctx context.Context, p plan.Plan, later []string) error {
	return e.Approval.Consent(ctx, e.UI, e.InTTY, p, later, e.Rerun)
}

func call(f func()) {
	if f != nil {
		f()
	}
}

// round is the state of a loop between two looks.
type round struct {
	Loop
	job    Job
	unlock func()
	locked bool
	shown  bool // Before was called
}

// lock takes the lock of the verb's VM.
func (r *round) lock(ctx context.Context) (waited bool, err error) {
	release, waited, err := r.Lock(ctx, r.job.VM())
	if err != nil {
		return false, r.WithRerunHint(err)
	}
	r.unlock, r.locked = release, true
	return waited, nil
}

// lookFailed decides whether a look that failed is made again: half of what was
// seen may be from before another run's work, half from after it. That run is
// waited for.
func (r *round) lookFailed(ctx context.Context, err error) (again bool, _ error) {
	if r.job.VM == nil || r.locked || r.DryRun || errors.Is(err, context.Canceled) {
		return false, err
	}
	if r.LockHeld(r.job.VM()) {
		if _, err := r.lock(ctx); err != nil {
			return false, err
		}
		r.ForgetHost()
		if err := r.refresh(); err != nil {
			return false, err
		}
		return true, nil
	}
	if r.job.ExplainError != nil {
		if gone := r.job.ExplainError(); gone != nil {
			return false, gone // that run has ended by now
		}
	}
	return false, err
}

func (r *round) refresh() error {
	if r.job.Refresh == nil {
		return nil
	}
	return r.job.Refresh()
}

func (r *round) later() []string {
	if r.job.Later == nil {
		return nil
	}
	return r.job.Later()
}

func (r *round) dry(p plan.Plan) error {
	if r.job.Dry != nil {
		return r.job.Dry(p)
	}
	vm := ""
	if r.job.VM != nil {
		vm = r.job.VM()
	}
	return r.Dry(r.Verb, vm, p)
}

// agree has a plan agreed to and takes the lock for it. again says that it is to
// be looked at once more.
func (r *round) agree(ctx context.Context, p plan.Plan) (again bool, err error) {
	j := r.job
	if r.Verbose > 0 && !p.Empty() && !r.locked && j.Later != nil {
		r.UI.Say("%s", plan.Text(p, r.later()))
	}
	asks := len(r.Approval.Open(p)) > 0
	if j.NeedsConsent != nil && !asks && !p.Empty() && !r.InTTY {
		if why := j.NeedsConsent(); why != "" {
			// Nothing is started, and root not bothered, for a plan that is
			// refused all the same.
			return false, plan.NoTerminal([]string{why}, r.Rerun)
		}
	}
	if asks && r.InTTY {
		// Nobody waits for a person at a prompt.
		r.unlock()
		r.unlock, r.locked = func() {}, false
	}
	if !r.shown && !p.Empty() {
		r.shown = true
		call(j.Before)
	}
	if err := r.AskConsent(ctx, p, r.later()); err != nil {
		return false, err
	}
	if p.Empty() || r.locked || j.VM == nil {
		return false, nil
	}
	// Something is to be changed. Whoever had to wait, for the lock or a person,
	// looks again.
	waited, err := r.lock(ctx)
	if err != nil {
		return false, err
	}
	if !waited && !asks && j.FactsCurrent != nil && j.FactsCurrent() {
		return false, nil
	}
	if j.KeepConn != nil {
		j.KeepConn()
	} else {
		call(j.CloseFacts)
	}
	return true, r.refresh()
}
