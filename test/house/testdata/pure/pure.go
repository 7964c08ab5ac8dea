// Package pure has planners that TestPlannersArePure must catch (Bad*), and some that it must not.
package pure

import (
	"context"
	"os"
	"slices"
	"time"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/virt"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/target"
)

// GoodCopy changes a copy of what it was given.
func GoodCopy(w *target.Target) plan.Plan {
	t := *w
	t.Boot = true
	return plan.Plan{Notes: []plan.Note{{Text: t.Name}}}
}

// GoodAction plans an action that touches the machine.
func GoodAction(w *target.Target, f *loop.Facts) []plan.Action {
	return []plan.Action{{
		ID:   "x",
		Do:   func(context.Context) error { f.AliasPlanned = true; return os.Remove(w.Name) },
		Fail: func(error) error { return os.Remove(w.Name) },
	}}
}

// BadRead reads a file.
func BadRead(w *target.Target) plan.Plan {
	_, _ = os.ReadFile(w.Name)
	return plan.Plan{}
}

// BadDeep reads a file in a function that another package calls.
func BadDeep(names []string) []plan.Action {
	slices.SortFunc(names, func(a, b string) int { return size(a) - size(b) })
	return nil
}

func size(name string) int {
	st, err := os.Stat(name)
	if err != nil {
		return 0
	}
	return int(st.Size())
}

// BadCall calls a function literal immediately.
func BadCall() []plan.Action {
	func() { _ = os.Remove("x") }()
	return nil
}

// BadClock reads the clock.
func BadClock() (plan.Plan, error) {
	return plan.Plan{Notes: []plan.Note{{Text: time.Now().String()}}}, nil
}

// BadTarget changes its argument.
func BadTarget(w *target.Target) (*plan.Plan, error) {
	w.Boot = true
	return nil, nil
}

// BadFacts changes a map of the facts.
func BadFacts(f *loop.Facts) plan.Plan {
	f.Skipped["x"] = nil
	return plan.Plan{}
}

// BadSay prints to the console.
func BadSay(e loop.Loop) plan.Plan {
	e.UI.Say("x")
	return plan.Plan{}
}

// BadEnviron reads the environment, by a function of the session.
func BadEnviron(e loop.Loop) plan.Plan {
	return plan.Plan{Notes: []plan.Note{{Text: e.Getenv("HOME")}}}
}

// BadAsk calls libvirt.
func BadAsk(ctx context.Context, l *virt.Conn) (plan.Action, error) {
	_, err := l.Domain(ctx, "x")
	return plan.Action{}, err
}

// Forbidden is not a planner and changes a target that is not its own copy.
func Forbidden(w *target.Target) { w.Guest = true }

// Allowed changes a copy.
func Allowed(w target.Target) *target.Target { w.Guest = true; return &w }
