package session

import "aivm.dev/aivm/internal/ui"

// Outcome is the result of a verb about a VM.
type Outcome string

// The outcomes.
const (
	Started       Outcome = "started"
	Stopped       Outcome = "stopped"
	WasOff        Outcome = "was off"
	Answers       Outcome = "answers"
	Deleted       Outcome = "deleted"
	WasDeleted    Outcome = "was deleted by another run"
	Adopted       Outcome = "adopted"
	AdoptedBefore Outcome = "adopted before"
)

// VMResult is what the verbs about a VM return: its state and the outcome.
type VMResult struct {
	Schema  int                `json:"schema"`
	VM      string             `json:"vm"`
	State   string             `json:"state"`
	Alias   string             `json:"alias"`
	Address string             `json:"address"`
	Seconds map[string]float64 `json:"seconds,omitempty"`

	Outcome Outcome    `json:"-"`
	Network string     `json:"-"` // of a deleted VM
	Timing  *ui.Timing `json:"-"` // of a started VM
}

// VMResult returns the result for a VM, with the address in its instance.json.
func (e *Session) VMResult(vm, state string, outcome Outcome) VMResult {
	r := VMResult{Schema: 1, VM: vm, State: state, Alias: vm, Outcome: outcome}
	if inst, err := e.State().Instance(vm); err == nil && inst != nil {
		r.Address = inst.Address
	}
	return r
}

// A Problem is what a command could not do of its work, in the JSON output of one that continued
// without it.
type Problem struct {
	Kind    string   `json:"kind"` // "refused" or "failed"
	Message string   `json:"message"`
	Hints   []string `json:"hints"`
}
