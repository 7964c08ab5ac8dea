package show

import (
	"github.com/spf13/cobra"

	"aivm.dev/aivm/cmd/cli"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision"
)

// StatusCmd builds "aivm status".
func (a Verbs) StatusCmd() *cobra.Command {
	var vm string
	var sudo, detail, run bool
	c := &cobra.Command{
		Use: "status", Short: "Show the state of this machine and of the current directory's VM", Args: cli.NoArgs,
		Long: `Show the state of this machine and of the VM of the current directory, or the VM
--vm names, and of the template of "aivm run". Nothing is changed. Without --sudo,
nothing runs as root.

--run checks only what "aivm run" needs, by trying it; the exit status is 2 if a run
would not resume its template.

Examples:
  aivm status
  aivm status --vm work --json
  aivm status --run
` + cli.ExitStatuses,
		RunE: func(c *cobra.Command, _ []string) error {
			e, err := a.Provision("status")
			if err != nil {
				return err
			}
			if run {
				return a.printReadiness(c, e)
			}
			return a.PrintStatus(c.Context(), e, vm, sudo, detail)
		},
	}
	a.VMFlag(c, &vm, cli.VMUsage)
	cli.StatusFlags(c, &sudo, &detail)
	c.Flags().BoolVar(&run, "run", false, "check only what aivm run needs")
	return c
}

// printReadiness prints whether "aivm run" is ready.
func (a Verbs) printReadiness(c *cobra.Command, e *provision.Env) error {
	st, ready, err := e.RunReadiness(c.Context())
	if err = a.Show(st, err, func() { a.PrintChecks(st.Checks) }); err == nil && !ready {
		return ui.Status(ui.ExitRefused)
	}
	return err
}
