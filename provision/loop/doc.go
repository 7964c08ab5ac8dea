// Package loop holds the one loop of a verb (Bring) and what the parts of a run
// share: the facts of a look at the world (Facts), what goes from look to look
// (Progress), and the way to have the whole of a VM looked at or brought to a
// state (Runner), which one part alone cannot.
package loop

import (
	"context"

	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/provision/state"
	"aivm.dev/aivm/provision/target"
)

// Loop is what a part works with: the session of the run, the finder of targets,
// and the Runner.
type Loop struct {
	target.Finder
	Runner
}

// Runner looks at a VM as a whole and brings it to a state. The facade is the
// one there is.
type Runner interface {
	// Converge brings what w is about to the wanted state, and returns what it is
	// about then: another run may have changed the store. The facts are those of the
	// last look; their connection to the guest is open if w asked for it.
	Converge(ctx context.Context, w *target.Target) (*target.Target, *Facts, error)
	// Observe looks, and changes nothing. before is what the run has done so far.
	Observe(ctx context.Context, w *target.Target, before Progress) (*Facts, error)
	// Look is Observe for a person who wants to know what is wrong: what keeps
	// plans from being made is a fact.
	Inspect(ctx context.Context, w *target.Target) (*Facts, plan.Known[*state.Instance], error)
	// GuestStage plans and applies what is missing in the guest, and records it.
	GuestStage(ctx context.Context, w *target.Target, f *Facts) error
	// Probe asks the guest again what it has; f takes what it says.
	Probe(ctx context.Context, c guest.Conn, w *target.Target, f *Facts) error
	// Stopped does what is left to do once a VM is off.
	Stopped(ctx context.Context, vm string) error
	// LookAtWall has f hold what the rules of w's network hang on.
	ObserveFirewall(ctx context.Context, w *target.Target, f *Facts)
	// Walled plans what is missing of the rules of w's network.
	PlanFirewall(w *target.Target, f *Facts) (plan.Plan, error)
}
