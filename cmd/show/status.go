package show

import (
	"github.com/spf13/cobra"

	"aivm.dev/aivm/cmd/cli"
)

// StatusCmd builds "aivm status".
func (a Verbs) StatusCmd() *cobra.Command {
	var vm string
	var sudo, detail bool
	c := &cobra.Command{
		Use: "status", Short: "Show the state of this machine and of the current directory's VM", Args: cli.NoArgs,
		Long: `Show the state of this machine and of the VM of the current directory, or the VM
--vm names. Nothing is changed. Without --sudo, nothing runs as root.

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
	a.VMFlag(c, &vm, cli.VMUsage)
	cli.StatusFlags(c, &sudo, &detail)
	return c
}
