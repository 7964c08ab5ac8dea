package host

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"aivm.dev/aivm/cmd/cli"
	"aivm.dev/aivm/provision"
)

func (a Verbs) hostFirewallCmd() *cobra.Command {
	c := cli.Group("fw", "Show, load and remove the firewall rules that isolate VMs", `  aivm host fw status
  aivm host fw apply --dry-run
`, a.hostFwApplyCmd(), a.hostFwStatusCmd(), a.hostFwRemoveCmd())
	c.Aliases = []string{"firewall"}
	return c
}

// fwVerb builds a command about the firewall of one network, or of all.
func (a Verbs) fwVerb(use, short, long string, run func(context.Context, *provision.Env, string) error) *cobra.Command {
	var network string
	c := &cobra.Command{
		Use: use, Short: short, Long: long + cli.ExitStatuses, Args: cli.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			e, err := a.Provision("fw " + use)
			if err != nil {
				return err
			}
			return run(c.Context(), e, network)
		},
	}
	c.Flags().StringVar(&network, "network", "", "only the firewall of this network (default: all networks)")
	_ = c.RegisterFlagCompletionFunc("network", a.CompleteNetwork)
	return c
}

func (a Verbs) hostFwApplyCmd() *cobra.Command {
	c := a.fwVerb("apply", "Load the firewall rules", `Load the firewall rules of one network, or of all networks, if they are not loaded.
Every command that uses a VM does the same. With --dry-run the rules are printed.

Examples:
  aivm host fw apply
  aivm host fw apply --network aivm-net --dry-run
`, func(ctx context.Context, e *provision.Env, network string) error {
		r, err := e.FirewallApply(ctx, network)
		return a.Show(r, err, func() { a.UI.Result("The firewall rules are loaded") })
	})
	a.DryRunFlag(c)
	return c
}

func (a Verbs) hostFwRemoveCmd() *cobra.Command {
	c := a.fwVerb("remove", "Remove the firewall rules", `Remove the firewall rules of one network, or of all networks. The next command that
uses a VM of the network loads them again, unless the network's firewall has
enabled = false in the config.

Examples:
  aivm host fw remove --dry-run
  aivm host fw remove --network aivm-net
`, func(ctx context.Context, e *provision.Env, network string) error {
		r, err := e.FirewallRemove(ctx, network)
		return a.Show(r, err, func() {
			a.UI.Result("The firewall rules are removed until a VM of the network is used again; to disable the firewall: enabled = false in the config")
		})
	})
	a.DryRunFlag(c)
	return c
}

func (a Verbs) hostFwStatusCmd() *cobra.Command {
	var sudo bool
	c := a.fwVerb("status", "Show whether the firewall rules are loaded", `Show whether the firewall rules are loaded, what a guest can reach, and which rules of
other programs interfere with them.

Examples:
  aivm host fw status
  aivm host fw status --sudo --json
`, func(ctx context.Context, e *provision.Env, network string) error {
		r, err := e.FirewallStatus(ctx, network, sudo)
		if err != nil {
			return err
		}
		if a.UI.JSON {
			return a.UI.PrintJSON(r)
		}
		for _, n := range r.Networks {
			a.UI.Result("%s: %s", n.Network, n.State+map[bool]string{true: " (" + n.Why + ")"}[n.Why != ""])
			a.UI.Result("  tables: %s", strings.Join(n.Tables, ", "))
			a.UI.Result("  %s", n.Sentence)
			for _, s := range n.InTheWay {
				a.UI.Result("  in the way: %s", s)
			}
		}
		return nil
	})
	c.Flags().BoolVar(&sudo, "sudo", false, "read the loaded rules with sudo")
	return c
}
