package cmd

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"aivm.dev/aivm/provision"
)

func statusFlags(c *cobra.Command, sudo, detail *bool) {
	c.Flags().BoolVar(sudo, "sudo", false, "also look where only root can")
	c.Flags().BoolVar(detail, "detail", false, "add what was seen of each part, and the commands to look further")
	c.Flags().BoolVar(detail, "details", false, "")
	_ = c.Flags().MarkHidden("details")
}

func (a *app) statusCmd() *cobra.Command {
	var vm string
	var sudo, detail bool
	c := &cobra.Command{
		Use: "status", Short: "Show the state of this machine and of the VM that belongs here", Args: noArgs,
		Long: `Show the state of this machine and of the VM that belongs to the working
directory. Nothing is changed, and without --sudo nothing is asked of root.

Examples:
  aivm status
  aivm status --vm work --json
` + exitStatuses,
		RunE: func(c *cobra.Command, _ []string) error {
			e, err := a.provision("status")
			if err != nil {
				return err
			}
			return a.printStatus(c.Context(), e, vm, sudo, detail)
		},
	}
	a.vmFlag(c, &vm, "the VM")
	statusFlags(c, &sudo, &detail)
	return c
}

func (a *app) printStatus(ctx context.Context, e *provision.Env, vm string, sudo, detail bool) error {
	look := e.Status
	if detail {
		look = e.StatusInDetail
	}
	st, err := look(ctx, vm, sudo)
	if err != nil {
		return err
	}
	if a.ui.JSON {
		return a.ui.PrintJSON(st)
	}
	if st.VM == "" {
		a.ui.Result("🧭 AIVM Global Status")
		a.ui.Result("📄 Config: %s", st.Config)
		a.printChecks(st.Checks)
		l, err := e.Listing(ctx)
		if err != nil {
			return err
		}
		a.ui.Result("📦 Managed Resources")
		a.ui.Result("- VMs: %d", len(l.VMs))
		a.ui.Result("- Folder attachments: %d", len(l.Folders))
		if len(l.VMs) == 0 {
			a.ui.Result("No VM yet. Start with: aivm code .   (or step by step: aivm config init, aivm vm create)")
		}
		return nil
	}
	a.ui.Result("🧭 AgentVM Status: %s", st.VM)
	a.ui.Result("📄 Config: %s", st.Config)
	a.printChecks(st.Checks)
	a.ui.Result("📊 Progress: %d/%d checks complete", st.Done, st.Total)
	a.ui.Result("%s", st.Wall.Sentence)
	if detail {
		a.ui.Result("🔎 Detailed Diagnostics")
		for _, d := range st.Details {
			a.ui.Result("%s:\n    %s", d.Title, strings.Join(d.Lines, "\n    "))
		}
		a.ui.Result("🛠️ Suggested Next Commands")
		a.ui.Result("    %s", strings.Join(st.Next, "\n    "))
	}
	if !sudo && e.Host.Euid != 0 {
		a.ui.Say("Without --sudo some things can only be seen by root.")
	}
	return nil
}

func (a *app) printChecks(cs []provision.Check) {
	icon := map[any]string{provision.StateOK: "✅", provision.StateBad: "❌"}
	for _, c := range cs {
		i, ok := icon[c.State]
		if !ok {
			i = "➖"
		}
		a.ui.Result("%s %s - %s", i, c.Label, c.Detail)
		if a.verbose > 0 {
			for _, s := range c.Evidence {
				a.ui.Result("     seen: %s", s)
			}
		}
		for _, f := range c.Fix {
			a.ui.Result("     fix: %s", f)
		}
	}
}
