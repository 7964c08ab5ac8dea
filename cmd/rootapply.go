package cmd

import (
	"os"

	"github.com/spf13/cobra"

	"aivm.dev/aivm/internal/root"
	"aivm.dev/aivm/provision"
)

// rootApplyCmd is the privileged helper, started by aivm itself through sudo.
func (a app) rootApplyCmd() *cobra.Command {
	return &cobra.Command{
		Use: root.Command, Hidden: true, Args: cobra.NoArgs,
		Short: "Carry out approved privileged actions (started by aivm itself)",
		RunE: func(c *cobra.Command, _ []string) error {
			return root.Serve(c.Context(), os.Stdin, provision.Builders())
		},
	}
}

// rootHookCmd is what libvirt's hooks run, from the root-owned copy.
func (a app) rootHookCmd() *cobra.Command {
	return &cobra.Command{
		Use: root.HookCommand, Hidden: true, Args: cobra.ArbitraryArgs, DisableFlagParsing: true,
		Short: "Put rules and folders back in place (run by libvirt itself)",
		RunE: func(c *cobra.Command, args []string) error {
			return root.RunHook(c.Context(), args, os.Stdin, os.Stdout)
		},
	}
}
