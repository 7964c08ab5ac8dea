package plan

import (
	"context"
	"fmt"
	"strings"

	"aivm.dev/aivm/internal/ui"
)

// Approval is what the person has agreed to in this run.
type Approval struct {
	Yes     bool // --yes: everything but Typed
	YesSudo bool // --yes-sudo: the actions that run as root
	shown   map[string]bool
}

// Approve marks actions as agreed to, as they are shown: the same action with
// another diff or other packages is asked about again.
func (ap *Approval) Approve(as ...Action) {
	if ap.shown == nil {
		ap.shown = map[string]bool{}
	}
	for _, a := range as {
		ap.shown[a.shown()] = true
	}
}

// shown is all a person sees of an action.
func (a Action) shown() string {
	return strings.Join(append([]string{a.ID, a.Why, a.Diff}, a.Shows...), "\x00")
}

func (ap *Approval) covers(a Action) bool {
	switch a.Consent {
	case Ask:
		return ap.Yes || (ap.YesSudo && a.Root != nil) || ap.shown[a.shown()]
	case Typed:
		return ap.shown[a.shown()]
	}
	return true
}

// Open returns the actions of p that still need a yes.
func (ap *Approval) Open(p Plan) []Action {
	var out []Action
	for _, a := range p.Actions {
		if !ap.covers(a) {
			out = append(out, a)
		}
	}
	return out
}

// Person is who is shown a plan and asked.
type Person interface {
	Say(format string, args ...any)
	Confirm(ctx context.Context, question string, defaultYes bool) (bool, error)
}

// Consent shows the plan and asks once, if anything in it needs a yes that
// was not given. later are sentences on what follows in the guest. there says that
// there is somebody to ask; rerun is the command that would do without the question.
func (ap *Approval) Consent(ctx context.Context, s Person, there bool, p Plan, later []string, rerun string) error {
	open := ap.Open(p)
	if len(open) == 0 {
		return nil
	}
	if !there {
		what := make([]string, 0, len(open))
		for _, a := range open {
			what = append(what, a.Why)
		}
		return NoTerminal(what, rerun)
	}
	s.Say("%s", Text(p, later))
	ok, err := s.Confirm(ctx, "Continue?", true)
	if err != nil {
		return err
	}
	if !ok {
		return ui.NeedsApproval("nothing was changed")
	}
	ap.Approve(p.Actions...)
	return nil
}

// NoTerminal is the error for a plan nobody can be asked about.
func NoTerminal(what []string, rerun string) error {
	return ui.NeedsApproval("this needs your approval and there is no terminal to ask on: %s", strings.Join(what, "; ")).
		Hint(ui.CmdFor("to agree", ui.AddFlag(rerun, "--yes")), ui.CmdFor("to see all of it first", ui.AddFlag(rerun, "--dry-run")))
}

// Text is the plan as a person reads it.
func Text(p Plan, later []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "On this %s aivm will:\n", map[Stage]string{Host: "machine", Guest: "guest"}[p.Stage])
	for i, a := range p.Actions {
		mark := ""
		if a.Root != nil {
			mark = "  [root]"
		}
		fmt.Fprintf(&b, "%3d. %s%s\n", i+1, ui.Clean(a.Why), mark)
		for _, sh := range a.Shows {
			fmt.Fprintf(&b, "       %s\n", ui.Clean(sh))
		}
		if a.Diff != "" {
			for l := range strings.Lines(a.Diff) {
				fmt.Fprintf(&b, "       %s\n", ui.Clean(strings.TrimRight(l, "\r\n")))
			}
		}
	}
	if len(later) > 0 {
		b.WriteString("and then in the guest:\n")
		for _, l := range later {
			fmt.Fprintf(&b, "     - %s\n", ui.Clean(l))
		}
	}
	return strings.TrimRight(b.String(), "\n")
}
