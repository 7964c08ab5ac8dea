package look

import (
	"github.com/spf13/cobra"

	"aivm.dev/aivm/cmd/cli"
)

// StatusCmd is `aivm status`.
func (a Verbs) StatusCmd() *cobra.Command {
	var vm string
	var sudo, detail bool
	c := &cobra.Command{
		Use: "status", Short: "Show the state of this machine and of the VM that belongs here", Args: cli.NoArgs,
		Long: `Show the state of this machine and of the VM that belongs to the working
directory. Nothing is changed, and without --sudo nothing is asked of root.

Examples:
  aivm status
  aivm status --vm work --json
` + cli.ExitStatuses,
		RunE: func(c *cobra.Command, _ []string) error {
			e, err := a.Provision("status")
			if err != nil {
				return err
			}
			return a.PrintStatus(c.Context(), e, vm, sudo, detail)
		},
	}
	a.VMFlag(c, &vm, "the VM")
	cli.StatusFlags(c, &sudo, &detail)
	return c
}
