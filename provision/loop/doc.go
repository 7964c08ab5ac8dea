// Package loop holds what the parts of a run share: the facts of a look at the
// world (Facts), and the way to have the whole of a VM looked at or brought to a
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
	// Converge brings what w is about to the wanted state. The facts are those of
	// the last look; their connection to the guest is open if w asked for it.
	Converge(ctx context.Context, w *target.Target) (*Facts, error)
	// Observe looks, and changes nothing.
	Observe(ctx context.Context, w *target.Target) (*Facts, error)
	// Look is Observe for a person who wants to know what is wrong: what keeps
	// plans from being made is a fact.
	Look(ctx context.Context, w *target.Target) (*Facts, plan.Known[*state.Instance], error)
	// GuestStage plans and applies what is missing in the guest, and records it.
	GuestStage(ctx context.Context, w *target.Target, f *Facts) error
	// Probe asks the guest again what it has.
	Probe(ctx context.Context, c guest.Conn, w *target.Target) (Guest, error)
	// Stopped does what is left to do once a VM is off.
	Stopped(ctx context.Context, vm string) error
	// WalledFor plans what is missing of the rules of w's network.
	WalledFor(ctx context.Context, w *target.Target, f *Facts) ([]plan.Action, error)
}
