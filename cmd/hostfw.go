package cmd

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/provision"
)

func (a *app) hostFirewallCmd() *cobra.Command {
	c := group("fw", "Look at and change the firewall between VMs and this machine", `  aivm host fw status
  aivm host fw apply --dry-run
`, a.hostFwApplyCmd(), a.hostFwStatusCmd(), a.hostFwRemoveCmd())
	c.Aliases = []string{"firewall"}
	return c
}

// fwVerb declares a verb about the firewall of one network, or of all.
func (a *app) fwVerb(use, short, long string, run func(context.Context, *provision.Env, string) error) *cobra.Command {
	var network string
	c := &cobra.Command{
		Use: use, Short: short, Long: long + exitStatuses, Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			e, err := a.provision("fw " + use)
			if err != nil {
				return err
			}
			return run(c.Context(), e, network)
		},
	}
	c.Flags().StringVar(&network, "network", "", "the network (default: all)")
	_ = c.RegisterFlagCompletionFunc("network", a.completeNetwork)
	return c
}

func (a *app) hostFwApplyCmd() *cobra.Command {
	c := a.fwVerb("apply", "Put the firewall's rules in place", `Put the firewall's rules of a network, or of all, in place, if they are not. Every
use of a VM does the same. With --dry-run the rules are printed.

Examples:
  aivm host fw apply
  aivm host fw apply --network aivm-net --dry-run
`, func(ctx context.Context, e *provision.Env, network string) error {
		r, err := e.FirewallApply(ctx, network)
		return a.show(r, err, func() { a.ui.Result("The firewall is in place") })
	})
	a.dryRunFlag(c)
	return c
}

func (a *app) hostFwRemoveCmd() *cobra.Command {
	c := a.fwVerb("remove", "Take the firewall's rules away", `Take the firewall's rules of a network, or of all, away. The next use of a VM puts
them back, unless its network's config says enabled = false.

Examples:
  aivm host fw remove --dry-run
  aivm host fw remove --network aivm-net
`, func(ctx context.Context, e *provision.Env, network string) error {
		r, err := e.FirewallRemove(ctx, network)
		return a.show(r, err, func() {
			a.ui.Result("The firewall is gone until a VM of the network is used again; to keep it off: enabled = false in the config")
		})
	})
	a.dryRunFlag(c)
	return c
}

func (a *app) hostFwStatusCmd() *cobra.Command {
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
		if a.ui.JSON {
			return a.ui.PrintJSON(r)
		}
		for _, n := range r.Networks {
			a.ui.Result("%s: %s", n.Network, n.State+map[bool]string{true: " (" + n.Why + ")"}[n.Why != ""])
			a.ui.Result("  tables: %s", strings.Join(n.Tables, ", "))
			a.ui.Result("  %s", n.Sentence)
			for _, s := range n.InTheWay {
				a.ui.Result("  in the way: %s", s)
			}
		}
		return nil
	})
	c.Flags().BoolVar(&sudo, "sudo", false, "look where only root can")
	return c
}

// completeNetwork offers the networks of the store.
func (a *app) completeNetwork(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	path, err := a.storePath()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	s, err := config.Load(path)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for _, n := range s.Config.Networks {
		names = append(names, n.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
