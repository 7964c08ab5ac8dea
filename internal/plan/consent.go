package plan

import (
	"context"
	"fmt"
	"strings"

	"aivm.dev/aivm/internal/ui"
)

// Approval holds what the user has approved in this run.
type Approval struct {
	Yes     bool // --yes: everything but Typed
	YesSudo bool // --yes-sudo: the actions that run as root
	shown   map[string]bool
}

// Approve records actions as approved in the form in which they were shown: an
// action with another diff or other packages needs a new yes.
func (ap *Approval) Approve(as ...Action) {
	if ap.shown == nil {
		ap.shown = map[string]bool{}
	}
	for _, a := range as {
		ap.shown[a.shown()] = true
	}
}

// shown returns everything the user sees of an action, as a key for Approval.
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

// Open returns the actions of p that are not approved yet.
func (ap *Approval) Open(p Plan) []Action {
	var out []Action
	for _, a := range p.Actions {
		if !ap.covers(a) {
			out = append(out, a)
		}
	}
	return out
}

// Person shows a plan to the user and asks for consent.
type Person interface {
	Say(format string, args ...any)
	Confirm(ctx context.Context, question string, defaultYes bool) (bool, error)
}

// Consent shows the plan and asks once, if an action in it needs approval and has
// none. later describes what follows in the guest. canAsk is whether there is a
// terminal to ask on; without one the error's hint is rerun, the command line of
// this run, with --yes added.
func (ap *Approval) Consent(ctx context.Context, s Person, canAsk bool, p Plan, later []string, rerun string) error {
	open := ap.Open(p)
	if len(open) == 0 {
		return nil
	}
	if !canAsk {
		var reasons []string
		rows := Plan{Actions: open}
		for i := 0; i < len(open); {
			n := rows.Row(i)
			reasons = append(reasons, rows.RowWhy(i, n))
			i += n
		}
		return NoTerminal(reasons, rerun)
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

// NoTerminal returns the error for actions that need approval when there is no
// terminal to ask on. reasons are the actions' Why.
func NoTerminal(reasons []string, rerun string) error {
	return ui.NeedsApproval("this needs your approval and there is no terminal to ask on: %s", strings.Join(reasons, "; ")).
		Hint(ui.CmdFor("to approve", ui.AddFlag(rerun, "--yes")), ui.CmdFor("to see all of it first", ui.AddFlag(rerun, "--dry-run")))
}

// Text formats the plan for the user: numbered actions, or rows of them, each with
// its commands and diff, and [root] where it runs as root.
func Text(p Plan, later []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "On this %s aivm will:\n", map[Stage]string{Host: "machine", Guest: "guest"}[p.Stage])
	row, number := 0, 0
	for i, a := range p.Actions {
		if row == 0 {
			mark := ""
			if a.Root != nil {
				mark = "  [root]"
			}
			row, number = p.Row(i), number+1
			fmt.Fprintf(&b, "%3d. %s%s\n", number, ui.Clean(p.RowWhy(i, row)), mark)
		}
		row--
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
