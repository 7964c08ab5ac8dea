package plan

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/internal/ui"
)

func streams(tty bool, in string) (*ui.Streams, *bytes.Buffer) {
	var b bytes.Buffer
	return &ui.Streams{In: strings.NewReader(in), Out: io.Discard, Err: &b, InTTY: tty}, &b
}

func example() Plan {
	return Plan{Stage: Host, Actions: []Action{
		{ID: "start", Why: "start it"},
		{ID: "make", Why: "make \x1b[31mit", Consent: Ask, Shows: []string{"mk it"}, Diff: "+a\n"},
		{ID: "bind", Why: "bind it", Consent: Ask, Root: root.Export{VMKey: "1-a"}},
		{ID: "gone", Why: "delete it", Consent: Typed},
	}}
}

func openIDs(ap *Approval, p Plan) (out []string) {
	for _, a := range ap.Open(p) {
		out = append(out, a.ID)
	}
	return out
}

func TestApproval(t *testing.T) {
	for _, c := range []struct {
		name string
		ap   Approval
		want []string
	}{
		{"no flag given", Approval{}, []string{"make", "bind", "gone"}},
		{"--yes never covers what has to be typed", Approval{Yes: true}, []string{"gone"}},
		{"--yes-sudo covers only root actions", Approval{YesSudo: true}, []string{"make", "gone"}},
	} {
		if got := openIDs(&c.ap, example()); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	ap := Approval{Yes: true}
	ap.Approve(example().Actions[3])
	if got := openIDs(&ap, example()); got != nil {
		t.Errorf("typed: %v", got)
	}
}

func TestConsent(t *testing.T) {
	ctx := context.Background()
	s, _ := streams(false, "")
	err := new(Approval).Consent(ctx, s, s.InTTY, example(), nil, "aivm code .")
	var ue *ui.Error
	if !errors.As(err, &ue) || ue.Exit != ui.ExitApproval || !slices.Contains(ue.HintLines(), "to approve: aivm code . --yes") {
		t.Errorf("no terminal: %v", err)
	}
	s, printed := streams(true, "n\n")
	if err := new(Approval).Consent(ctx, s, s.InTTY, example(), []string{"mount it"}, "x"); ui.ExitCode(err) != ui.ExitApproval {
		t.Errorf("no: %v", err)
	}
	for _, want := range []string{"[root]", "mk it", "+a", "mount it", "  1. start it"} {
		if !strings.Contains(printed.String(), want) {
			t.Errorf("the question lacks %q:\n%s", want, printed)
		}
	}
	if strings.Contains(printed.String(), "\x1b[31m") {
		t.Error("an escape sequence reached the terminal")
	}
	var ap Approval
	s, _ = streams(true, "y\n")
	if err := ap.Consent(ctx, s, s.InTTY, example(), nil, "x"); err != nil || len(ap.Open(example())) != 0 {
		t.Errorf("yes: %v %v", err, openIDs(&ap, example()))
	}
	// An approved action is not asked about again when the plan is made again.
	s, _ = streams(false, "")
	if err := ap.Consent(ctx, s, s.InTTY, example(), nil, "x"); err != nil {
		t.Errorf("again: %v", err)
	}
}

// An approval covers an action as it was shown, not every action with its ID.
func TestApprovalCoversWhatWasShown(t *testing.T) {
	var ap Approval
	ap.Approve(example().Actions...)
	p := example()
	p.Actions[1].Diff = "+something else\n"
	p.Actions[2].Shows = []string{"another command"}
	if got := openIDs(&ap, p); !slices.Equal(got, []string{"make", "bind"}) {
		t.Errorf("%v", got)
	}
}

type applier struct{ did []string }

func (a *applier) Do(_ context.Context, op root.Op, _ root.Progress) (root.Result, error) {
	a.did = append(a.did, op.Kind())
	return root.Result{Note: "n"}, nil
}
func (a *applier) Close() error { return nil }

func TestRun(t *testing.T) {
	var points []string
	ap := &applier{}
	r := Runner{Root: ap, Hook: func(p string) { points = append(points, p) }}
	boom := errors.New("boom")
	act := func(id string, err error) Action {
		return Action{ID: id, Why: "do " + id, Do: func(context.Context) error { return err }}
	}
	got := false
	p := Plan{Actions: []Action{act("a", nil), {ID: "r", Root: root.Export{}, Got: func(context.Context, root.Result) error { got = true; return nil }}, act("b", boom), act("c", nil)}}
	again, err := r.Run(context.Background(), p)
	if again || !errors.Is(err, boom) || !strings.HasPrefix(err.Error(), "do b: ") || !got {
		t.Errorf("%v %v %v", again, err, got)
	}
	if want := []string{"a:before", "a:after", "r:before", "r:after", "b:before"}; !slices.Equal(points, want) {
		t.Errorf("points %v", points)
	}
	if again, err := r.Run(context.Background(), Plan{Actions: []Action{act("a", ErrStale), act("b", boom)}}); !again || err != nil {
		t.Errorf("stale: %v %v", again, err)
	}
	x := act("x", nil)
	x.Again = true
	if again, err := r.Run(context.Background(), Plan{Actions: []Action{x, act("b", boom)}}); !again || err != nil {
		t.Errorf("again: %v %v", again, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := r.Run(ctx, p); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestDescribe(t *testing.T) {
	d := Describe(example(), Plan{Stage: Guest})
	if len(d) != 2 || len(d[0].Actions) != 4 || d[0].Actions[0].Consent != None || !d[0].Actions[2].Root || d[0].Actions[0].Shows == nil || d[1].Actions == nil {
		t.Errorf("%+v", d)
	}
}

func TestActionsInARowAreShownAsOne(t *testing.T) {
	unmount := func(id string) Action {
		return Action{ID: id, Why: "unmount folder " + id, Group: "unmount %d folders", Shows: []string{"umount " + id}, Consent: Typed}
	}
	p := Plan{Stage: Host, Actions: []Action{unmount("a"), unmount("b"), {ID: "x", Why: "remove the rest"}, unmount("c")}}
	want := `On this machine aivm will:
  1. unmount 2 folders
       umount a
       umount b
  2. remove the rest
  3. unmount folder c
       umount c`
	if got := Text(p, nil); got != want {
		t.Errorf("got\n%s", got)
	}
	var ap Approval
	err := ap.Consent(t.Context(), nil, false, p, nil, "aivm vm delete v")
	if err == nil || !strings.Contains(err.Error(), "unmount 3 folders") {
		t.Errorf("without a terminal: %v", err)
	}
}
