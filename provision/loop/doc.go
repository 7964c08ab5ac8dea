// Package loop runs verbs (RunJob) and holds what the parts of a run share: the facts of
// one observation (Facts), what is carried from one observation to the next (Progress), and
// the operations on a complete VM that concern several parts (Runner).
package loop

import (
	"context"

	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/provision/state"
	"aivm.dev/aivm/provision/target"
)

// Loop holds what a part works with: the session of the run, the finder of targets, and the
// Runner.
type Loop struct {
	target.Finder
	Runner
}

// Runner observes and changes a complete VM, with all of its parts. The facade
// (provision.Env) implements it.
type Runner interface {
	// Converge brings w's VM and folder to the state that w asks for. It returns the target
	// as it is then, since another run may have changed the config, and the facts of the
	// last observation; their connection to the guest is open if w asked for it.
	Converge(ctx context.Context, w *target.Target) (*target.Target, *Facts, error)
	// Observe reads the facts for w and changes nothing. before is what the run has done
	// so far.
	Observe(ctx context.Context, w *target.Target, before Progress) (*Facts, error)
	// Inspect is Observe for status and doctor: an error that would prevent a plan becomes
	// a fact.
	Inspect(ctx context.Context, w *target.Target) (*Facts, plan.Known[*state.Instance], error)
	// GuestStage plans and applies what is missing in the guest, and records it in the
	// config.
	GuestStage(ctx context.Context, w *target.Target, f *Facts) error
	// Probe runs the probe script in the guest again and stores the answer in f.
	Probe(ctx context.Context, c guest.Conn, w *target.Target, f *Facts) error
	// Stopped finishes what had to wait until the VM was off: folders still being detached.
	Stopped(ctx context.Context, vm string) error
	// ObserveFirewall reads into f what PlanFirewall depends on.
	ObserveFirewall(ctx context.Context, w *target.Target, f *Facts)
	// PlanFirewall plans the rules that are missing for w's network.
	PlanFirewall(w *target.Target, f *Facts) (plan.Plan, error)
}
