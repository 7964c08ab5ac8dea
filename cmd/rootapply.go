package cmd

import (
	"os"

	"github.com/spf13/cobra"

	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/provision"
)

// rootApplyCmd builds the command of the privileged helper, which aivm starts through
// sudo.
func (a app) rootApplyCmd() *cobra.Command {
	return &cobra.Command{
		Use: root.Command, Hidden: true, Args: cobra.NoArgs,
		Short: "Execute approved actions as root (aivm starts this itself)",
		RunE: func(c *cobra.Command, _ []string) error {
			return root.Serve(c.Context(), os.Stdin, provision.Builders())
		},
	}
}

// rootHookCmd builds the command that libvirt's hook scripts run, from the copy of
// aivm that root owns.
func (a app) rootHookCmd() *cobra.Command {
	return &cobra.Command{
		Use: root.HookCommand, Hidden: true, Args: cobra.ArbitraryArgs, DisableFlagParsing: true,
		Short: "Restore firewall rules and folder mounts (libvirt's hooks run this)",
		RunE: func(c *cobra.Command, args []string) error {
			return root.RunHook(c.Context(), args, os.Stdin, os.Stdout)
		},
	}
}
