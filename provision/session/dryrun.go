package session

import (
	"aivm.dev/aivm/gitsync"
	"aivm.dev/aivm/internal/plan"
)

// DryRun is the result of a verb with --dry-run. It is an error, so that nothing after it
// runs; cmd prints it and exits with 0.
type DryRun struct {
	plan.Dry
	// Clones lists the work in clones that would be lost with the VM, or stay in it.
	Clones []gitsync.CloneWork `json:"clones,omitempty"`
	// For the text output only: the rules that would be loaded, the plans, and a sentence
	// about what would be opened or waited for then.
	Rules       []string  `json:"-"`
	Host, Guest plan.Plan `json:"-"`
	Last        string    `json:"-"`
}

// Error returns "dry run".
func (*DryRun) Error() string { return "dry run" }

// Dry returns the DryRun of a plan that concerns no folder.
func (e *Session) Dry(verb, vm string, p plan.Plan) *DryRun {
	return &DryRun{Dry: plan.Dry{Schema: 1, Verb: verb, VM: vm, NeedsConsent: p.NeedsConsent(), Stages: plan.Describe(p)}, Host: p}
}
