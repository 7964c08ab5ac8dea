package host

import (
	"strings"

	"github.com/spf13/cobra"

	"aivm.dev/aivm/cmd/cli"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision"
)

func (a Verbs) hostNetCmd() *cobra.Command {
	c := cli.Group("net", "Look at, make and take away networks of VMs", `  aivm host net status
  aivm host net create --dry-run
  aivm host net destroy aivm-net
`, a.hostNetCreateCmd(), a.hostNetStatusCmd(), a.hostNetDestroyCmd())
	c.Aliases = []string{"network"}
	return c
}

// oneNetwork is the network a verb names, "" if none, and what it works with.
func (a Verbs) oneNetwork(verb string, args []string) (string, *provision.Env, error) {
	name := ""
	switch {
	case len(args) > 1:
		return "", nil, ui.Usage("one network at a time, not %d", len(args)).Hint(ui.Cmd("aivm host net status"))
	case len(args) == 1 && args[0] == "":
		return "", nil, ui.Usage("the name of a network is empty").Hint(ui.Cmd("aivm host net status"))
	case len(args) == 1:
		name = args[0]
	}
	e, err := a.Provision(verb)
	return name, e, err
}

func (a Verbs) hostNetCreateCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "create [NETWORK]", Short: "Make a network, with its firewall, before a VM needs it",
		Long: `Make a network: libvirt's, its firewall, and its record. Without a name it is the
one the next VM gets (defaults.network in the config). A new name gets a bridge and
a subnet that are free; VMs made from then on use it if defaults.network.name says
so. One that is there is put right: started, its firewall in place.

Examples:
  aivm host net create --dry-run
  aivm host net create lab --yes
` + cli.ExitStatuses,
		ValidArgsFunction: a.CompleteNetwork,
		RunE: func(c *cobra.Command, args []string) error {
			name, e, err := a.oneNetwork("net create", args)
			if err != nil {
				return err
			}
			r, err := e.CreateNetwork(c.Context(), name)
			return a.Show(r.Status, err, func() {
				is := "is there"
				if r.Was {
					is = "was there already"
				}
				n := r.Network
				a.UI.Result("Network %s %s: bridge %s, %s, gateway %s", n.Name, is, n.Network.Bridge, n.Network.SubnetCIDR, n.Network.GatewayIP)
			})
		},
	}
	a.DryRunFlag(c)
	a.RecreateFlags(c, "recreate")
	return c
}

func (a Verbs) hostNetStatusCmd() *cobra.Command {
	var sudo bool
	c := &cobra.Command{
		Use: "status [NETWORK]", Short: "Show the networks of VMs",
		Long: `Show a network, or all: whether libvirt runs it, its bridge and subnet, its
firewall, the VMs that use it and the addresses that are kept for them.

Examples:
  aivm host net status
  aivm host net status aivm-net --json
` + cli.ExitStatuses,
		ValidArgsFunction: a.CompleteNetwork,
		RunE: func(c *cobra.Command, args []string) error {
			name, e, err := a.oneNetwork("net status", args)
			if err != nil {
				return err
			}
			r, err := e.NetworkStatus(c.Context(), name, sudo)
			if err != nil {
				return err
			}
			if a.UI.JSON {
				return a.UI.PrintJSON(r)
			}
			a.printNetworks(r)
			return nil
		},
	}
	c.Flags().BoolVar(&sudo, "sudo", false, "ask libvirt through sudo where it refuses you")
	return c
}

func (a Verbs) printNetworks(r provision.NetworksStatus) {
	if len(r.Networks) == 0 {
		a.UI.Result("There is no network yet; the first VM gets one.")
	}
	for _, n := range r.Networks {
		why := ""
		if n.Why != "" {
			why = " (" + n.Why + ")"
		}
		if !n.Recorded {
			why += ", not in the config"
		}
		a.UI.Result("%s: %s%s", n.Name, n.State, why)
		a.UI.Result("  bridge %s, %s, gateway %s, DHCP %s to %s", n.Bridge, n.Subnet, n.Gateway, n.DHCPStart, n.DHCPEnd)
		a.UI.Result("  firewall: %s", n.Firewall)
		a.UI.Result("  VMs: %s", cli.OrDash(strings.Join(n.VMs, ", ")))
		for _, g := range n.Addresses {
			a.UI.Result("  address %s is kept for %s (%s)", g.Address, ui.Clean(g.VM), g.MAC)
		}
		for _, f := range n.Fix {
			a.UI.Result("  fix: %s", f)
		}
	}
}

func (a Verbs) hostNetDestroyCmd() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "destroy NETWORK", Short: "Take a network away, with its firewall",
		Long: `Take a network away: libvirt's, its firewall, and its record. It is made again when
a VM needs it. One that VMs use stays; with --force it goes, its record stays, and
the next start of a VM makes it again.

Examples:
  aivm host net destroy aivm-net --dry-run
  aivm host net destroy aivm-net --force
` + cli.ExitStatuses,
		ValidArgsFunction: a.CompleteNetwork,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) != 1 || args[0] == "" {
				return ui.Usage("name one network").Hint(ui.Cmd("aivm list"))
			}
			e, err := a.Provision("net destroy")
			if err != nil {
				return err
			}
			r, err := e.DestroyNetwork(c.Context(), args[0], force)
			return a.Show(r, err, func() { a.UI.Result("Network %s is gone", r.Network) })
		},
	}
	c.Flags().BoolVar(&force, "force", false, "take it away from VMs that use it")
	a.DryRunFlag(c)
	return c
}
