package host

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"aivm.dev/aivm/cmd/cli"
	"aivm.dev/aivm/provision"
)

func (a Verbs) hostFirewallCmd() *cobra.Command {
	c := cli.Group("fw", "Look at and change the firewall between VMs and this machine", `  aivm host fw status
  aivm host fw apply --dry-run
`, a.hostFwApplyCmd(), a.hostFwStatusCmd(), a.hostFwRemoveCmd())
	c.Aliases = []string{"firewall"}
	return c
}

// fwVerb declares a verb about the firewall of one network, or of all.
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
	c.Flags().StringVar(&network, "network", "", "the network (default: all)")
	_ = c.RegisterFlagCompletionFunc("network", a.CompleteNetwork)
	return c
}

func (a Verbs) hostFwApplyCmd() *cobra.Command {
	c := a.fwVerb("apply", "Put the firewall's rules in place", `Put the firewall's rules of a network, or of all, in place, if they are not. Every
use of a VM does the same. With --dry-run the rules are printed.

Examples:
  aivm host fw apply
  aivm host fw apply --network aivm-net --dry-run
`, func(ctx context.Context, e *provision.Env, network string) error {
		r, err := e.FirewallApply(ctx, network)
		return a.Show(r, err, func() { a.UI.Result("The firewall is in place") })
	})
	a.DryRunFlag(c)
	return c
}

func (a Verbs) hostFwRemoveCmd() *cobra.Command {
	c := a.fwVerb("remove", "Take the firewall's rules away", `Take the firewall's rules of a network, or of all, away. The next use of a VM puts
them back, unless its network's config says enabled = false.

Examples:
  aivm host fw remove --dry-run
  aivm host fw remove --network aivm-net
`, func(ctx context.Context, e *provision.Env, network string) error {
		r, err := e.FirewallRemove(ctx, network)
		return a.Show(r, err, func() {
			a.UI.Result("The firewall is gone until a VM of the network is used again; to keep it off: enabled = false in the config")
		})
	})
	a.DryRunFlag(c)
	return c
}

func (a Verbs) hostFwStatusCmd() *cobra.Command {
	var sudo bool
	c := a.fwVerb("status", "Show whether the firewall's rules are in place", `Show whether the firewall's rules are in place, what a guest can reach, and what
of other programs' rules stands in the way.

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
	c.Flags().BoolVar(&sudo, "sudo", false, "look where only root can")
	return c
}
