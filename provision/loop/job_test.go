package loop_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/loop/looptest"
	"aivm.dev/aivm/provision/session"
)

// world is a session whose jobs record which of their functions are called.
type world struct {
	*looptest.World
	calls []string
}

func (w *world) note(s string) { w.calls = append(w.calls, s) }

// action returns an action that records its call, and may fail (err) or ask for another
// observation (again).
func (w *world) action(id string, consent plan.Consent, again bool, err error) plan.Action {
	return plan.Action{ID: id, Why: id, Consent: consent, Again: again, Do: func(context.Context) error {
		w.note("do " + id)
		return err
	}}
}

// job returns a Job that returns these plans, one for each call; the last one repeatedly.
func (w *world) job(plans ...any) loop.Job {
	return loop.Job{
		VM: func() string { return "t" },
		Plan: func(context.Context) (plan.Plan, error) {
			w.note("observe")
			p := plans[0]
			if len(plans) > 1 {
				plans = plans[1:]
			}
			if err, ok := p.(error); ok {
				return plan.Plan{}, err
			}
			return p.(plan.Plan), nil
		},
		Refresh:      func() error { w.note("refresh"); return nil },
		CloseFacts:   func() { w.note("close") },
		BeforeUnlock: func() { w.note("leave") },
		Applied: func(_ plan.Plan, stale bool) {
			if stale {
				w.note("stale")
			}
		},
		Then: func(_ context.Context, changed, locked bool) error {
			w.note(map[bool]string{true: "then, changed", false: "then"}[changed] + map[bool]string{true: ", locked"}[locked])
			return nil
		},
	}
}

func TestRunJob(t *testing.T) {
	boom := errors.New("boom")
	for name, c := range map[string]struct {
		plans   func(*world) []any
		change  func(*world, *loop.Job)
		want    string
		err     string
		applied bool
	}{
		"nothing to do": {
			plans: func(*world) []any { return []any{plan.Plan{}} },
			want:  "observe, then",
		},
		"observed again under the lock": {
			plans:   func(w *world) []any { return []any{plan.Plan{Actions: []plan.Action{w.action("a", "", false, nil)}}} },
			want:    "observe, close, refresh, observe, do a, then, changed, locked, leave",
			applied: true,
		},
		"done by another run before this one had the lock": {
			plans: func(w *world) []any {
				return []any{plan.Plan{Actions: []plan.Action{w.action("a", "", false, nil)}}, plan.Plan{}}
			},
			want: "observe, close, refresh, observe, then, locked, leave",
		},
		"facts still current": {
			plans:   func(w *world) []any { return []any{plan.Plan{Actions: []plan.Action{w.action("a", "", false, nil)}}} },
			change:  func(_ *world, j *loop.Job) { j.FactsCurrent = func() bool { return true } },
			want:    "observe, do a, then, changed, locked, leave",
			applied: true,
		},
		"locked first": {
			plans:   func(w *world) []any { return []any{plan.Plan{Actions: []plan.Action{w.action("a", "", false, nil)}}} },
			change:  func(_ *world, j *loop.Job) { j.LockFirst = true },
			want:    "observe, do a, then, changed, locked, leave",
			applied: true,
		},
		"no VM, no lock": {
			plans:   func(w *world) []any { return []any{plan.Plan{Actions: []plan.Action{w.action("a", "", false, nil)}}} },
			change:  func(_ *world, j *loop.Job) { j.VM = nil },
			want:    "observe, do a, then, changed",
			applied: true,
		},
		"an action that asks for another observation": {
			plans: func(w *world) []any {
				return []any{
					plan.Plan{Actions: []plan.Action{w.action("a", "", true, nil), w.action("b", "", false, nil)}},
					plan.Plan{Actions: []plan.Action{w.action("b", "", false, nil)}},
				}
			},
			change:  func(_ *world, j *loop.Job) { j.LockFirst = true },
			want:    "observe, do a, stale, close, observe, do b, then, changed, locked, leave",
			applied: true,
		},
		"a stale plan": {
			plans: func(*world) []any { return []any{plan.ErrStale, plan.Plan{}} },
			want:  "observe, close, observe, then",
		},
		"an observation that fails": {
			plans: func(*world) []any { return []any{boom} },
			want:  "observe, close", err: "boom",
		},
		"an observation that fails because the VM was deleted": {
			plans:  func(*world) []any { return []any{boom} },
			change: func(_ *world, j *loop.Job) { j.ExplainError = func() error { return errors.New("it was deleted") } },
			want:   "observe, close", err: "it was deleted",
		},
		"an action that fails": {
			plans:  func(w *world) []any { return []any{plan.Plan{Actions: []plan.Action{w.action("a", "", false, boom)}}} },
			change: func(_ *world, j *loop.Job) { j.LockFirst = true },
			want:   "observe, do a, close, leave", err: "boom", applied: true,
		},
		"an action that fails, and is handled": {
			plans: func(w *world) []any { return []any{plan.Plan{Actions: []plan.Action{w.action("a", "", false, boom)}}} },
			change: func(w *world, j *loop.Job) {
				j.LockFirst = true
				j.Failed = func(context.Context, plan.Plan, bool, error) error { w.note("handled"); return nil }
			},
			want: "observe, do a, handled, then, changed, locked, leave", applied: true,
		},
		"nobody to ask": {
			plans: func(w *world) []any {
				return []any{plan.Plan{Actions: []plan.Action{w.action("a", plan.Ask, false, nil)}}}
			},
			want: "observe, close", err: "no terminal to ask on",
		},
		"consent needed later": {
			plans:  func(w *world) []any { return []any{plan.Plan{Actions: []plan.Action{w.action("a", "", true, nil)}}} },
			change: func(_ *world, j *loop.Job) { j.NeedsConsent = func() string { return "share it" } },
			want:   "observe, close", err: "share it",
		},
		"consent given in advance": {
			plans: func(w *world) []any {
				return []any{plan.Plan{Actions: []plan.Action{w.action("a", plan.Ask, false, nil)}}}
			},
			change:  func(w *world, j *loop.Job) { w.Approval.Yes = true; j.Before = func() { w.note("shown") } },
			want:    "observe, shown, close, refresh, observe, do a, then, changed, locked, leave",
			applied: true,
		},
		"always stale": {
			plans:  func(*world) []any { return []any{plan.ErrStale} },
			want:   strings.Repeat("observe, close, ", 11) + "observe, close",
			err:    "gave up after planning 12 times",
			change: func(*world, *loop.Job) {},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := &world{World: looptest.New(t)}
			w.Timing = ui.NewTiming()
			j := w.job(c.plans(w)...)
			if c.change != nil {
				c.change(w, &j)
			}
			applied, err := w.RunJob(t.Context(), j)
			if got := strings.Join(w.calls, ", "); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("error %v, want %q", err, c.err)
			}
			if applied != c.applied {
				t.Errorf("applied %v", applied)
			}
			if w.LockHeld("t") {
				t.Error("the lock is still held")
			}
		})
	}
}

// A dry run ends with its plan, does nothing and takes no lock.
func TestRunJobDry(t *testing.T) {
	w := &world{World: looptest.New(t)}
	w.DryRun, w.Verb = true, "x"
	j := w.job(plan.Plan{Stage: plan.Host, Actions: []plan.Action{w.action("a", plan.Ask, false, nil)}})
	j.LockFirst = true
	_, err := w.RunJob(t.Context(), j)
	var dry *session.DryRun
	if !errors.As(err, &dry) || dry.Verb != "x" || dry.VM != "t" || !dry.NeedsConsent || !dry.Host.Has("a") {
		t.Fatalf("%v %+v", err, dry)
	}
	if want := []string{"observe", "close"}; !slices.Equal(w.calls, want) {
		t.Errorf("%q", w.calls)
	}
}

// If an observation fails while another run works on the VM, RunJob waits for that run and
// observes again: the facts may be half of its work.
func TestRunJobWaitsForAnotherRun(t *testing.T) {
	w := &world{World: looptest.New(t)}
	w.Timing = ui.NewTiming()
	release, _, err := w.Lock(t.Context(), "t")
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(300*time.Millisecond, release)
	j := w.job(errors.New("half of it"), plan.Plan{})
	if _, err := w.RunJob(t.Context(), j); err != nil {
		t.Fatal(err)
	}
	if want := []string{"observe", "close", "refresh", "observe", "then, locked", "leave"}; !slices.Equal(w.calls, want) {
		t.Errorf("%q", w.calls)
	}
	// The other run may have deleted the VM.
	release, _, err = w.Lock(t.Context(), "t")
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(300*time.Millisecond, release)
	w.calls = nil
	j = w.job(errors.New("half of it"), plan.Plan{})
	j.Refresh = func() error { return errors.New("the VM was deleted by another run") }
	if _, err := w.RunJob(t.Context(), j); err == nil || !strings.Contains(err.Error(), "deleted by another run") {
		t.Errorf("%v", err)
	}
	if w.LockHeld("t") {
		t.Error("the lock is still held")
	}
}
