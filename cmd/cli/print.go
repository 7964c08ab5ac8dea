package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision"
)

// PrintDry prints the result of a dry run: what the command would do.
func (a *App) PrintDry(d *provision.DryRun) error {
	switch {
	case d.Stages == nil: // the command has no plan, only a line of text
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

// Show prints a result: v as JSON with --json, else by calling text. It returns err
// without printing if err is not nil.
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

// OrDash returns s, or "-" if s is empty.
func OrDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// NoArgs refuses arguments of a command that takes none.
func NoArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return ui.Usage("%s takes no argument, but %q is given", c.CommandPath(), args[0]).Hint(ui.Cmd(c.CommandPath() + " --help"))
	}
	return nil
}

// StatusFlags declares --sudo and --detail.
func StatusFlags(c *cobra.Command, sudo, detail *bool) {
	c.Flags().BoolVar(sudo, "sudo", false, "also check what only root can read, with sudo")
	c.Flags().BoolVar(detail, "detail", false, "also print the observed details of each part, and commands to inspect it further")
	c.Flags().BoolVar(detail, "details", false, "")
	_ = c.Flags().MarkHidden("details")
}

// PrintStatus prints the status of a VM, or of the host alone if vm is "" and no VM can
// be determined from the working directory.
func (a *App) PrintStatus(ctx context.Context, e *provision.Env, vm string, sudo, detail bool) error {
	status := e.Status
	if detail {
		status = e.StatusInDetail
	}
	st, err := status(ctx, vm, sudo)
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
		a.UI.Say("Some checks need root; to run them too, add --sudo.")
	}
	return nil
}

// PrintChecks prints one line per check, followed by the fixes for it. With -v the
// evidence of each check is printed too.
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
