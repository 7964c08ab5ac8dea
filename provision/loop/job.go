package loop

import (
	"context"
	"errors"
	"slices"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
)

// maxRounds is how often RunJob observes and plans before it gives up because the host
// keeps changing.
const maxRounds = 12

// Job describes one verb to RunJob. Only Plan is required.
type Job struct {
	// VM returns the name of the VM that is changed; its lock lets one run at a time work
	// on it. nil: the verb concerns no VM. It is a function because a default name that is
	// taken is replaced by the next one.
	VM func() string
	// LockFirst takes the lock before the first observation, for verbs that ask no
	// question: observing twice would cost a second login.
	LockFirst bool
	// FactsCurrent reports whether the facts read before the lock was taken are still valid
	// under it, if the lock was free and no question was asked. nil: observe again.
	FactsCurrent func() bool

	// Plan observes and returns what is missing. If it returns plan.ErrStale, it is called
	// again.
	Plan func(ctx context.Context) (plan.Plan, error)
	// Follow returns what the verb does after the plan, if the plan is not empty: it is shown with
	// the plan and not run by RunJob.
	Follow func() []plan.Action
	// Later returns sentences about the steps that follow in the guest.
	Later func() []string
	// NeedsConsent names a step that will certainly need consent although this plan does
	// not contain it yet; "" if there is none.
	NeedsConsent func() string
	// Dry returns the result of a dry run; nil: the plan.
	Dry func(plan.Plan) error
	// Before is called once, before the user is asked.
	Before func()

	// Refresh reads the config again, after another run may have changed it.
	Refresh func() error
	// ExplainError returns the cause of a failed observation if another run is the cause
	// (it deleted the VM, say); otherwise nil.
	ExplainError func() error
	// KeepConn is called instead of CloseFacts if the next observation follows immediately.
	KeepConn func()
	// CloseFacts closes the connections that the last observation opened.
	CloseFacts func()
	// Applied is called with a plan that was applied. stale: an action asked for another
	// observation, so the rest of the plan did not run.
	Applied func(p plan.Plan, stale bool)
	// Failed is called with the error of a plan that could not be applied, and returns the
	// verb's error; if that is nil, Then is called. locked: this run holds the lock.
	Failed func(ctx context.Context, p plan.Plan, locked bool, err error) error
	// BeforeUnlock is called before the lock is released, however the verb ends.
	BeforeUnlock func()
	// Then does the rest, still under the lock. changed: the last plan was not empty.
	Then func(ctx context.Context, changed, locked bool) error
}

// RunJob runs a verb: observe and plan, show the plan, ask for consent, take the lock,
// apply. It returns whether anything was applied. A dry run ends with a *session.DryRun.
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
			if again, err := r.observeFailed(ctx, err); !again {
				return applied, err
			}
			continue
		}
		if e.DryRun {
			call(j.CloseFacts)
			return false, r.dry(p)
		}
		again, err := r.consentAndLock(ctx, p)
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
	return applied, ui.Failed("the host keeps changing while aivm works; gave up after planning %d times", maxRounds).Hint(ui.CmdFor("try again", e.Rerun))
}

// AskConsent asks for consent to a plan; later are sentences about the steps that follow it.
// aivm asks for consent nowhere else.
func (e Loop) AskConsent(ctx context.Context, p plan.Plan, later []string) error {
	return e.Approval.Consent(ctx, e.UI, e.InTTY, p, later, e.Rerun)
}

func call(f func()) {
	if f != nil {
		f()
	}
}

// round is the state of RunJob between two observations.
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

// observeFailed decides whether to observe again after an error. If another run holds the
// VM's lock, the facts may be partly from before and partly from after its work: wait for
// it, then observe again.
func (r *round) observeFailed(ctx context.Context, err error) (again bool, _ error) {
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
		if cause := r.job.ExplainError(); cause != nil {
			return false, cause // the other run has ended by now
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

// withFollow returns the plan as the user sees it: with what follows.
func (r *round) withFollow(p plan.Plan) plan.Plan {
	if r.job.Follow != nil && !p.Empty() {
		p.Actions = append(slices.Clone(p.Actions), r.job.Follow()...)
	}
	return p
}

func (r *round) dry(p plan.Plan) error {
	p = r.withFollow(p)
	if r.job.Dry != nil {
		return r.job.Dry(p)
	}
	vm := ""
	if r.job.VM != nil {
		vm = r.job.VM()
	}
	return r.Dry(r.Verb, vm, p)
}

// consentAndLock asks for consent to the plan and takes the lock for it. again: observe and
// plan once more before applying.
func (r *round) consentAndLock(ctx context.Context, p plan.Plan) (again bool, err error) {
	j := r.job
	if r.Verbose > 0 && !p.Empty() && !r.locked && j.Later != nil {
		r.UI.Say("%s", plan.Text(r.withFollow(p), r.later()))
	}
	needsAnswer := len(r.Approval.Open(p)) > 0
	if j.NeedsConsent != nil && !needsAnswer && !p.Empty() && !r.InTTY {
		if why := j.NeedsConsent(); why != "" {
			// Refuse now: start nothing and use no root for a verb that will be
			// refused later.
			return false, plan.NoTerminal([]string{why}, r.Rerun)
		}
	}
	if needsAnswer && r.InTTY {
		// Release the lock: another run must not wait for the user at this prompt.
		r.unlock()
		r.unlock, r.locked = func() {}, false
	}
	if !r.shown && !p.Empty() {
		r.shown = true
		call(j.Before)
	}
	if err := r.AskConsent(ctx, r.withFollow(p), r.later()); err != nil {
		return false, err
	}
	if p.Empty() || r.locked || j.VM == nil {
		return false, nil
	}
	// The plan changes something. If this run waited, for the lock or for an answer, the
	// facts may be outdated: observe again.
	waited, err := r.lock(ctx)
	if err != nil {
		return false, err
	}
	if !waited && !needsAnswer && j.FactsCurrent != nil && j.FactsCurrent() {
		return false, nil
	}
	if j.KeepConn != nil {
		j.KeepConn()
	} else {
		call(j.CloseFacts)
	}
	return true, r.refresh()
}
