package cmd

import (
	"strings"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/provision"
)

// printDry prints what would be done.
func (a *app) printDry(d *provision.DryRun) error {
	switch {
	case d.Stages == nil: // there is no plan of it
		a.ui.Result("%s", d.Last)
		return nil
	case a.ui.JSON:
		return a.ui.PrintJSON(d)
	}
	for _, r := range d.Rules {
		a.ui.Result("%s", r)
	}
	would := func(p plan.Plan, later []string) {
		a.ui.Result("%s", strings.Replace(plan.Text(p, later), "aivm will:", "aivm would:", 1))
	}
	switch {
	case d.Host.Empty() && d.Guest.Empty():
		a.ui.Result("Nothing would change.")
	case d.Host.Empty():
		would(d.Guest, nil)
	default:
		var later []string
		for _, g := range d.Guest.Actions {
			later = append(later, g.Why)
		}
		would(d.Host, later)
	}
	for _, c := range d.Clones {
		a.ui.Result("The clone %s of %s:", c.GuestDst, c.Folder)
		for _, l := range c.Lines() {
			a.ui.Result("  %s", strings.TrimSpace(l))
		}
	}
	if d.Last != "" {
		a.ui.Result("%s", d.Last)
	}
	return nil
}

// show prints a result: v with --json, else what text does.
func (a *app) show(v any, err error, text func()) error {
	switch {
	case err != nil:
		return err
	case a.ui.JSON:
		return a.ui.PrintJSON(v)
	}
	text()
	return nil
}
