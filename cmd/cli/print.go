package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision"
)

// PrintDry prints what would be done.
func (a *App) PrintDry(d *provision.DryRun) error {
	switch {
	case d.Stages == nil: // there is no plan of it
		a.UI.Result("%s", d.Last)
		return nil
	case a.UI.JSON:
		return a.UI.PrintJSON(d)
	}
	for _, r := range d.Rules {
		a.UI.Result("%s", r)
	}
	would := func(p plan.Plan, later []string) {
		a.UI.Result("%s", strings.Replace(plan.Text(p, later), "aivm will:", "aivm would:", 1))
	}
	switch {
	case d.Host.Empty() && d.Guest.Empty():
		a.UI.Result("Nothing would change.")
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
		a.UI.Result("The clone %s of %s:", c.GuestDst, c.Folder)
		for _, l := range c.Lines() {
			a.UI.Result("  %s", strings.TrimSpace(l))
		}
	}
	if d.Last != "" {
		a.UI.Result("%s", d.Last)
	}
	return nil
}

// Show prints a result: v with --json, else what text does.
func (a *App) Show(v any, err error, text func()) error {
	switch {
	case err != nil:
		return err
	case a.UI.JSON:
		return a.UI.PrintJSON(v)
	}
	text()
	return nil
}

// OrDash is s, or a dash for nothing.
func OrDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// NoArgs refuses words after a command that takes none.
func NoArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return ui.Usage("%s takes no argument, not %q", c.CommandPath(), args[0]).Hint(ui.Cmd(c.CommandPath() + " --help"))
	}
	return nil
}

// StatusFlags declares --sudo and --detail.
func StatusFlags(c *cobra.Command, sudo, detail *bool) {
	c.Flags().BoolVar(sudo, "sudo", false, "also look where only root can")
	c.Flags().BoolVar(detail, "detail", false, "add what was seen of each part, and the commands to look further")
	c.Flags().BoolVar(detail, "details", false, "")
	_ = c.Flags().MarkHidden("details")
}

// PrintStatus looks at a VM, or at this machine alone, and prints it.
func (a *App) PrintStatus(ctx context.Context, e *provision.Env, vm string, sudo, detail bool) error {
	look := e.Status
	if detail {
		look = e.StatusInDetail
	}
	st, err := look(ctx, vm, sudo)
	if err != nil {
		return err
	}
	if a.UI.JSON {
		return a.UI.PrintJSON(st)
	}
	if st.VM == "" {
		a.UI.Result("🧭 AIVM Global Status")
		a.UI.Result("📄 Config: %s", st.Config)
		a.PrintChecks(st.Checks)
		l, err := e.Listing(ctx)
		if err != nil {
			return err
		}
		a.UI.Result("📦 Managed Resources")
		a.UI.Result("- VMs: %d", len(l.VMs))
		a.UI.Result("- Folder attachments: %d", len(l.Folders))
		if len(l.VMs) == 0 {
			a.UI.Result("No VM yet. Start with: aivm code .   (or step by step: aivm config init, aivm vm create)")
		}
		return nil
	}
	a.UI.Result("🧭 AgentVM Status: %s", st.VM)
	a.UI.Result("📄 Config: %s", st.Config)
	a.PrintChecks(st.Checks)
	a.UI.Result("📊 Progress: %d/%d checks complete", st.Done, st.Total)
	a.UI.Result("%s", st.Wall.Sentence)
	if detail {
		a.UI.Result("🔎 Detailed Diagnostics")
		for _, d := range st.Details {
			a.UI.Result("%s:\n    %s", d.Title, strings.Join(d.Lines, "\n    "))
		}
		a.UI.Result("🛠️ Suggested Next Commands")
		a.UI.Result("    %s", strings.Join(st.Next, "\n    "))
	}
	if !sudo && e.Host.Euid != 0 {
		a.UI.Say("Without --sudo some things can only be seen by root.")
	}
	return nil
}

// PrintChecks prints a list of checks, a line each, with what helps.
func (a *App) PrintChecks(cs []provision.Check) {
	icon := map[any]string{provision.StateOK: "✅", provision.StateBad: "❌"}
	for _, c := range cs {
		i, ok := icon[c.State]
		if !ok {
			i = "➖"
		}
		a.UI.Result("%s %s - %s", i, c.Label, c.Detail)
		if a.Verbose > 0 {
			for _, s := range c.Evidence {
				a.UI.Result("     seen: %s", s)
			}
		}
		for _, f := range c.Fix {
			a.UI.Result("     fix: %s", f)
		}
	}
}
