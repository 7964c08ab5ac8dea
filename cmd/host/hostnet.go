package host

import (
	"strings"

	"github.com/spf13/cobra"

	"aivm.dev/aivm/cmd/cli"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision"
)

func (a Verbs) hostNetCmd() *cobra.Command {
	c := cli.Group("net", "Show, create and delete the networks of VMs", `  aivm host net status
  aivm host net create --dry-run
  aivm host net destroy aivm-net
`, a.hostNetCreateCmd(), a.hostNetStatusCmd(), a.hostNetDestroyCmd())
	c.Aliases = []string{"network"}
	return c
}

// oneNetwork returns the network named in args, "" if there is none, and the
// provision.Env of the run.
func (a Verbs) oneNetwork(verb string, args []string) (string, *provision.Env, error) {
	name := ""
	switch {
	case len(args) > 1:
		return "", nil, ui.Usage("%d networks are given: one at a time", len(args)).Hint(ui.CmdFor("to list them", "aivm host net status"))
	case len(args) == 1 && args[0] == "":
		return "", nil, ui.Usage("the network's name is empty").Hint(ui.CmdFor("to list the networks", "aivm host net status"))
	case len(args) == 1:
		name = args[0]
	}
	e, err := a.Provision(verb)
	return name, e, err
}

func (a Verbs) hostNetCreateCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "create [NETWORK]", Short: "Create a network with its firewall",
		Long: `Create a libvirt network with its firewall and record it in the config. Creating a VM
does this too. Without a name, it is the network the next VM uses (defaults.network in
the config). A new name gets an unused bridge and subnet; to have new VMs use it, set
defaults.network.name. An existing network is started if it is not active, and its
firewall rules are loaded.

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
				is := "is created"
				if r.Was {
					is = "exists already"
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
		Long: `Show one network, or all: its state in libvirt, bridge, subnet and firewall, the VMs
that use it, and the IP addresses reserved for them.

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
	c.Flags().BoolVar(&sudo, "sudo", false, "query libvirt with sudo if it refuses you")
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
			a.UI.Result("  address %s is reserved for %s (%s)", g.Address, ui.Clean(g.VM), g.MAC)
		}
		for _, f := range n.Fix {
			a.UI.Result("  fix: %s", f)
		}
	}
}

func (a Verbs) hostNetDestroyCmd() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "destroy NETWORK", Short: "Delete a network with its firewall",
		Long: `Delete a libvirt network, its firewall and its record in the config. A network that VMs
use is not deleted, except with --force: then those VMs lose their connection, the
record is kept, and the next start of one of them creates the network again.

Examples:
  aivm host net destroy aivm-net --dry-run
  aivm host net destroy aivm-net --force
` + cli.ExitStatuses,
		ValidArgsFunction: a.CompleteNetwork,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) != 1 || args[0] == "" {
				return ui.Usage("give the name of one network").Hint(ui.CmdFor("to list the networks", "aivm host net status"))
			}
			e, err := a.Provision("net destroy")
			if err != nil {
				return err
			}
			r, err := e.DestroyNetwork(c.Context(), args[0], force)
			return a.Show(r, err, func() { a.UI.Result("Network %s is deleted", r.Network) })
		},
	}
	c.Flags().BoolVar(&force, "force", false, "delete it although VMs use it")
	a.DryRunFlag(c)
	return c
}
