package cmd

import (
	"github.com/spf13/cobra"

	"aivm.dev/aivm/internal/ui"
)

func (a *app) hostNetCmd() *cobra.Command {
	c := group("net", "Take networks of VMs away", `  aivm host net destroy aivm-net --dry-run
  aivm host net destroy aivm-net
`, a.hostNetDestroyCmd())
	c.Aliases = []string{"network"}
	return c
}

func (a *app) hostNetDestroyCmd() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "destroy NETWORK", Short: "Take a network away, with its firewall",
		Long: `Take a network away: libvirt's, its firewall, and its record. It is made again when
a VM needs it. One that VMs use stays; with --force it goes, its record stays, and
the next start of a VM makes it again.

Examples:
  aivm host net destroy aivm-net --dry-run
  aivm host net destroy aivm-net --force
` + exitStatuses,
		ValidArgsFunction: a.completeNetwork,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) != 1 || args[0] == "" {
				return ui.Usage("name one network").Hint("aivm list")
			}
			e, err := a.provision("net destroy")
			if err != nil {
				return err
			}
			return e.DestroyNetwork(c.Context(), args[0], force)
		},
	}
	c.Flags().BoolVar(&force, "force", false, "take it away from VMs that use it")
	a.dryRunFlag(c)
	return c
}
