// Package plan holds the one loop's middle: what is going to be done, as data.
//
// It owns Action, Plan, the question of consent and the order of execution. It
// never looks at the host and never decides what is wanted: an observer gives
// facts, a pure function turns them into a Plan, and Runner applies it.
//
// Invariants: a Plan is safe to print at any time (no secret is in it); every
// action is idempotent and forward-only, so a run killed anywhere is finished
// by the next one; an action that needs consent is never run without it.
package plan

import (
	"context"
	"slices"

	"aivm.dev/aivm/internal/root"
)

// Consent says what has to be said before an action may run.
type Consent string

const (
	// None marks an action that only puts back what was approved before.
	None Consent = "none"
	// Ask marks something new: the plan is shown and confirmed once (--yes counts).
	Ask Consent = "ask"
	// Typed marks what a plain --yes never covers by itself: the name of the
	// thing is typed, or given on the command line.
	Typed Consent = "typed"
)

// Stage is where the actions of a Plan happen.
type Stage string

// The two stages: the host first, then, once the guest answers, the guest.
const (
	Host  Stage = "host"
	Guest Stage = "guest"
)

// An Action is one step. It is data until Runner runs it.
type Action struct {
	ID      string   // "domain.define", "share.bind:TOKEN"; fault points are ID+":before" and ID+":after"
	Why     string   // one sentence for a person, lower case, no full stop
	Shows   []string // commands or "write PATH"; never a secret
	Diff    string   // unified diff, for files aivm does not own
	Consent Consent  // zero value counts as None
	Root    root.Op  // nil: runs as the user
	// Do is what runs when Root is nil.
	Do func(context.Context) error
	// Guard, if set, is held while a root action runs and its result is taken: a
	// lock against other runs that do the same. Whoever gets it looks again,
	// and returns ErrStale if there is nothing left to do.
	Guard func(context.Context) (release func(), err error)
	// Got takes what a root action hands back (an open descriptor).
	Got func(context.Context, root.Result) error
	// Again says that the facts change so much (packages appear, libvirt can
	// be asked) that what follows is observed and planned anew. What was
	// approved by its id stays approved.
	Again bool
	// Fail, if set, is told the error of an action that failed and says whether
	// the run ends with it: nil goes on with what follows, for work on several
	// things of which one must not keep the others from being done.
	Fail func(error) error
	// Timing names the bucket of the summary line this action's time belongs
	// to ("image", "define", "boot", "share", "ssh", "editor").
	Timing string
}

// A Plan is an ordered list of actions of one stage. It is made by a pure
// function of (facts, wanted); an empty Plan is the warm path.
type Plan struct {
	Stage   Stage
	Actions []Action
	// Notes are what a person is told about it, once a run, whether there is
	// something to do or not.
	Notes []Note
}

// A Note is a sentence about a plan.
type Note struct {
	Text string
	Warn bool // it is a warning
	// Said, if set, is called when it was said: to note that, for what is said once.
	Said func()
}

// Empty reports whether there is nothing to do.
func (p Plan) Empty() bool { return len(p.Actions) == 0 }

// Asks reports whether any action needs consent.
func (p Plan) Asks() bool {
	for _, a := range p.Actions {
		if a.Consent == Ask || a.Consent == Typed {
			return true
		}
	}
	return false
}

// Has reports whether an action of that id is in the plan.
func (p Plan) Has(id string) bool {
	return slices.ContainsFunc(p.Actions, func(a Action) bool { return a.ID == id })
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

// Known is a fact that could be read, or the reason why not.
// Err != nil means unknown, never "absent".
type Known[T any] struct {
	Value T
	Err   error
}

// Yes returns a known value.
func Yes[T any](v T) Known[T] { return Known[T]{Value: v} }

// Unknown returns a fact that could not be read.
func Unknown[T any](err error) Known[T] { return Known[T]{Err: err} }
