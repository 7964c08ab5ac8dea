package session

import (
	"aivm.dev/aivm/gitsync"
	"aivm.dev/aivm/internal/plan"
)

// DryRun ends a verb that was only asked what it would do. It is an error, so
// that nothing after it runs; cmd prints it and takes it for success.
type DryRun struct {
	plan.Dry
	// Clones are what would be lost with a VM, or left in it.
	Clones []gitsync.CloneWork `json:"clones,omitempty"`
	// For a person: the rules that would be loaded, the plans, and a sentence on
	// what would be opened or awaited then.
	Rules       []string  `json:"-"`
	Host, Guest plan.Plan `json:"-"`
	Last        string    `json:"-"`
}

// Error says what it is.
func (*DryRun) Error() string { return "dry run" }

// Dry returns the DryRun of a plan that concerns no folder.
func (e *Session) Dry(verb, vm string, p plan.Plan) *DryRun {
	return &DryRun{Dry: plan.Dry{Schema: 1, Verb: verb, VM: vm, Asks: p.Asks(), Stages: plan.Describe(p)}, Host: p}
}
