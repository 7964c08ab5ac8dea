// Package plan describes as data what a run is going to change.
//
// It owns Action, Plan, the consent question and the order of execution. It
// never observes the host and never decides what is wanted: an observer reads
// facts, a pure function turns them into a Plan, and Runner applies it.
//
// Invariants: a Plan is safe to print at any time (it contains no secret); every
// action is idempotent and forward-only, so the next run finishes what a killed
// run began; an action that needs consent never runs without it.
package plan

import (
	"context"
	"fmt"
	"slices"

	"aivm.dev/aivm/internal/root"
)

// Consent is the kind of approval an action needs before it may run.
type Consent string

const (
	// None marks an action that only restores what was approved before.
	None Consent = "none"
	// Ask marks something new: the plan is shown and confirmed once (--yes counts).
	Ask Consent = "ask"
	// Typed marks an action that --yes alone never covers: the user types the name
	// of the object, or gives it on the command line.
	Typed Consent = "typed"
)

// Stage is where the actions of a Plan run.
type Stage string

// The two stages: first the host; once the guest answers, the guest.
const (
	Host  Stage = "host"
	Guest Stage = "guest"
)

// An Action is one step of a plan. It is data until Runner runs it.
type Action struct {
	ID      string   // "domain.define", "share.bind:TOKEN"; fault points are ID+":before" and ID+":after"
	Why     string   // one sentence for the user, lower case, no full stop
	Group   string   // Why of several such actions in a row, with %d for their number; "": each is shown
	Shows   []string // commands or "write PATH"; never a secret
	Diff    string   // unified diff, for files aivm does not own
	Consent Consent  // zero value counts as None
	Root    root.Op  // nil: runs as the user
	// Do runs when Root is nil.
	Do func(context.Context) error
	// Guard, if set, takes a lock against other runs that do the same. The lock is
	// held while a root action runs and its result is received. Guard observes
	// again once it has the lock, and returns ErrStale if nothing remains to do.
	Guard func(context.Context) (release func(), err error)
	// Got, if set, receives the result of a root action (an open descriptor).
	Got func(context.Context, root.Result) error
	// Again marks an action that changes the facts so much (packages appear,
	// libvirt becomes reachable) that the rest is observed and planned again
	// after it. Actions that are shown as before stay approved.
	Again bool
	// Fail, if set, receives the error of a failed action and returns the error
	// that ends the run; nil continues with the next action. It is for work on
	// several objects where one failure must not stop the others.
	Fail func(error) error
	// Timing names the bucket of the summary line to which this action's time
	// is added ("image", "define", "boot", "share", "ssh", "editor").
	Timing string
}

// A Plan is an ordered list of actions of one stage. A pure function of (facts,
// wanted) makes it; a plan without actions is the warm path.
type Plan struct {
	Stage   Stage
	Actions []Action
	// Notes are shown to the user once a run, also if there is nothing to do.
	Notes []Note
}

// A Note is a sentence about a plan for the user.
type Note struct {
	Text string
	Warn bool // print it as a warning
	// OnPrint, if set, is called after the note was printed, to record that a note
	// which is to be printed only once was printed.
	OnPrint func()
}

// Empty reports whether there is nothing to do.
func (p Plan) Empty() bool { return len(p.Actions) == 0 }

// NeedsConsent reports whether any action needs consent.
func (p Plan) NeedsConsent() bool {
	for _, a := range p.Actions {
		if a.Consent == Ask || a.Consent == Typed {
			return true
		}
	}
	return false
}

// Has reports whether the plan has an action with this ID.
func (p Plan) Has(id string) bool {
	return slices.ContainsFunc(p.Actions, func(a Action) bool { return a.ID == id })
}

// Row returns how many actions from the i-th on are shown as one: those in a row
// with the same Group, at least 1.
func (p Plan) Row(i int) int {
	n := 1
	for p.Actions[i].Group != "" && i+n < len(p.Actions) && p.Actions[i+n].Group == p.Actions[i].Group {
		n++
	}
	return n
}

// RowWhy returns the sentence for the n actions from the i-th on.
func (p Plan) RowWhy(i, n int) string {
	if n == 1 {
		return p.Actions[i].Why
	}
	return fmt.Sprintf(p.Actions[i].Group, n)
}

// Add appends actions.
func (p *Plan) Add(a ...Action) { p.Actions = append(p.Actions, a...) }

// Join appends the actions and notes of another plan.
func (p *Plan) Join(q Plan) {
	p.Actions = append(p.Actions, q.Actions...)
	p.Notes = append(p.Notes, q.Notes...)
}

// Say adds a note.
func (p *Plan) Say(text string) { p.Notes = append(p.Notes, Note{Text: text}) }

// Warn adds a warning.
func (p *Plan) Warn(text string) { p.Notes = append(p.Notes, Note{Text: text, Warn: true}) }

// Known is a fact, or the reason why it could not be read. Err != nil means
// unknown, never "absent".
type Known[T any] struct {
	Value T
	Err   error
}

// Yes returns a known value.
func Yes[T any](v T) Known[T] { return Known[T]{Value: v} }

// Unknown returns a fact that could not be read.
func Unknown[T any](err error) Known[T] { return Known[T]{Err: err} }
