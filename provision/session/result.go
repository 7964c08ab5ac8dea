package session

import "aivm.dev/aivm/internal/ui"

// Outcome is what a verb about a VM came to.
type Outcome string

// The outcomes.
const (
	Started       Outcome = "started"
	Stopped       Outcome = "stopped"
	WasOff        Outcome = "was off"
	Answers       Outcome = "answers"
	Deleted       Outcome = "deleted"
	WasDeleted    Outcome = "was deleted meanwhile"
	Adopted       Outcome = "adopted"
	AdoptedBefore Outcome = "adopted before"
)

// VMResult is what the verbs about a VM return: its state, and what they came to.
type VMResult struct {
	Schema  int                `json:"schema"`
	VM      string             `json:"vm"`
	State   string             `json:"state"`
	Alias   string             `json:"alias"`
	Address string             `json:"address"`
	Seconds map[string]float64 `json:"seconds,omitempty"`

	Outcome Outcome    `json:"-"`
	Network string     `json:"-"` // of a VM that was deleted
	Timing  *ui.Timing `json:"-"` // of one that was started
}

// VMResult returns the result for a VM, with the address that is remembered.
func (e *Session) VMResult(vm, state string, is Outcome) VMResult {
	r := VMResult{Schema: 1, VM: vm, State: state, Alias: vm, Outcome: is}
	if in, err := e.State().Instance(vm); err == nil && in != nil {
		r.Address = in.Address
	}
	return r
}
