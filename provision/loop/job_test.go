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

// world is a session whose jobs note what happens to them.
type world struct {
	*looptest.World
	said []string
}

func (w *world) note(s string) { w.said = append(w.said, s) }

// action does something, and may be the one that fails or wants another look.
func (w *world) action(id string, consent plan.Consent, again bool, err error) plan.Action {
	return plan.Action{ID: id, Why: id, Consent: consent, Again: again, Do: func(context.Context) error {
		w.note("do " + id)
		return err
	}}
}

// job returns these plans, one for each look; the last one again and again.
func (w *world) job(plans ...any) loop.Job {
	return loop.Job{
		VM: func() string { return "t" },
		Plan: func(context.Context) (plan.Plan, error) {
			w.note("look")
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

func TestBring(t *testing.T) {
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
			want:  "look, then",
		},
		"looked again under the lock": {
			plans:   func(w *world) []any { return []any{plan.Plan{Actions: []plan.Action{w.action("a", "", false, nil)}}} },
			want:    "look, close, refresh, look, do a, then, changed, locked, leave",
			applied: true,
		},
		"done by another run before the lock was there": {
			plans: func(w *world) []any {
				return []any{plan.Plan{Actions: []plan.Action{w.action("a", "", false, nil)}}, plan.Plan{}}
			},
			want: "look, close, refresh, look, then, locked, leave",
		},
		"trusted": {
			plans:   func(w *world) []any { return []any{plan.Plan{Actions: []plan.Action{w.action("a", "", false, nil)}}} },
			change:  func(_ *world, j *loop.Job) { j.FactsCurrent = func() bool { return true } },
			want:    "look, do a, then, changed, locked, leave",
			applied: true,
		},
		"locked first": {
			plans:   func(w *world) []any { return []any{plan.Plan{Actions: []plan.Action{w.action("a", "", false, nil)}}} },
			change:  func(_ *world, j *loop.Job) { j.LockFirst = true },
			want:    "look, do a, then, changed, locked, leave",
			applied: true,
		},
		"no VM, no lock": {
			plans:   func(w *world) []any { return []any{plan.Plan{Actions: []plan.Action{w.action("a", "", false, nil)}}} },
			change:  func(_ *world, j *loop.Job) { j.VM = nil },
			want:    "look, do a, then, changed",
			applied: true,
		},
		"an action that wants another look": {
			plans: func(w *world) []any {
				return []any{
					plan.Plan{Actions: []plan.Action{w.action("a", "", true, nil), w.action("b", "", false, nil)}},
					plan.Plan{Actions: []plan.Action{w.action("b", "", false, nil)}},
				}
			},
			change:  func(_ *world, j *loop.Job) { j.LockFirst = true },
			want:    "look, do a, stale, close, look, do b, then, changed, locked, leave",
			applied: true,
		},
		"a plan that is stale": {
			plans: func(*world) []any { return []any{plan.ErrStale, plan.Plan{}} },
			want:  "look, close, look, then",
		},
		"a look that fails": {
			plans: func(*world) []any { return []any{boom} },
			want:  "look, close", err: "boom",
		},
		"a look that fails because the VM is gone": {
			plans:  func(*world) []any { return []any{boom} },
			change: func(_ *world, j *loop.Job) { j.ExplainError = func() error { return errors.New("it was deleted") } },
			want:   "look, close", err: "it was deleted",
		},
		"an action that fails": {
			plans:  func(w *world) []any { return []any{plan.Plan{Actions: []plan.Action{w.action("a", "", false, boom)}}} },
			change: func(_ *world, j *loop.Job) { j.LockFirst = true },
			want:   "look, do a, close, leave", err: "boom", applied: true,
		},
		"one that fails, and is seen to": {
			plans: func(w *world) []any { return []any{plan.Plan{Actions: []plan.Action{w.action("a", "", false, boom)}}} },
			change: func(w *world, j *loop.Job) {
				j.LockFirst = true
				j.Failed = func(context.Context, plan.Plan, bool, error) error { w.note("seen to"); return nil }
			},
			want: "look, do a, seen to, then, changed, locked, leave", applied: true,
		},
		"nobody to ask": {
			plans: func(w *world) []any {
				return []any{plan.Plan{Actions: []plan.Action{w.action("a", plan.Ask, false, nil)}}}
			},
			want: "look, close", err: "no terminal to ask on",
		},
		"what will be asked for later": {
			plans:  func(w *world) []any { return []any{plan.Plan{Actions: []plan.Action{w.action("a", "", true, nil)}}} },
			change: func(_ *world, j *loop.Job) { j.NeedsConsent = func() string { return "share it" } },
			want:   "look, close", err: "share it",
		},
		"agreed to before": {
			plans: func(w *world) []any {
				return []any{plan.Plan{Actions: []plan.Action{w.action("a", plan.Ask, false, nil)}}}
			},
			change:  func(w *world, j *loop.Job) { w.Approval.Yes = true; j.Before = func() { w.note("shown") } },
			want:    "look, shown, close, refresh, look, do a, then, changed, locked, leave",
			applied: true,
		},
		"always another look": {
			plans:  func(*world) []any { return []any{plan.ErrStale} },
			want:   strings.Repeat("look, close, ", 11) + "look, close",
			err:    "12 looks were not enough",
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
			if got := strings.Join(w.said, ", "); got != c.want {
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

// A dry run ends with its plan and does nothing; it takes no lock either.
func TestBringDry(t *testing.T) {
	w := &world{World: looptest.New(t)}
	w.DryRun, w.Verb = true, "x"
	j := w.job(plan.Plan{Stage: plan.Host, Actions: []plan.Action{w.action("a", plan.Ask, false, nil)}})
	j.LockFirst = true
	_, err := w.RunJob(t.Context(), j)
	var dry *session.DryRun
	if !errors.As(err, &dry) || dry.Verb != "x" || dry.VM != "t" || !dry.Asks || !dry.Host.Has("a") {
		t.Fatalf("%v %+v", err, dry)
	}
	if want := []string{"look", "close"}; !slices.Equal(w.said, want) {
		t.Errorf("%q", w.said)
	}
}

// A look that fails while another run is at work on the VM may have seen half of
// it: it is waited for, and looked at again.
func TestBringWaitsForAnotherRun(t *testing.T) {
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
	if want := []string{"look", "close", "refresh", "look", "then, locked", "leave"}; !slices.Equal(w.said, want) {
		t.Errorf("%q", w.said)
	}
	// What the other run did may be the end of it.
	release, _, err = w.Lock(t.Context(), "t")
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(300*time.Millisecond, release)
	w.said = nil
	j = w.job(errors.New("half of it"), plan.Plan{})
	j.Refresh = func() error { return errors.New("it was deleted meanwhile") }
	if _, err := w.RunJob(t.Context(), j); err == nil || !strings.Contains(err.Error(), "deleted meanwhile") {
		t.Errorf("%v", err)
	}
	if w.LockHeld("t") {
		t.Error("the lock is still held")
	}
}
