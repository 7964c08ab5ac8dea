package cmd

import (
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"aivm.dev/aivm/cmd/cli"
	"aivm.dev/aivm/internal/wall"
)

// helpCmd builds "aivm help": the help of a command, or one of the pages plan, tree,
// raw and completion, which aivm 0.3 had too.
func (a app) helpCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "help [command]", Short: "Help about any command; the pages plan, tree, raw and completion",
		Long: `Print the help of a command, or one of four pages: "plan", the usual steps; "tree",
all commands; "raw", commands of virsh, nft and ssh that show the state of a VM;
"completion", how to turn on completion in your shell. Nothing is executed.

Examples:
  aivm help vm create
  aivm help raw --vm work
` + cli.ExitStatuses,
		ValidArgsFunction: func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			at, _, err := c.Root().Find(args)
			if err != nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var names []string
			for _, k := range at.Commands() {
				if k.IsAvailableCommand() {
					names = append(names, k.Name())
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, args []string) error {
			at, rest, err := c.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return cli.UnknownCommand(c.Root(), strings.Join(args, " "))
			}
			at.InitDefaultHelpFlag()
			return at.Help()
		},
	}
	c.AddCommand(a.helpPlanCmd(), a.helpTreeCmd(), a.helpRawCmd(), a.helpCompletionCmd())
	return c
}

func (a app) helpPlanCmd() *cobra.Command {
	return &cobra.Command{
		Use: "plan", Short: "Print the usual steps from setup to deletion", Args: cli.NoArgs,
		Long: `Print the usual steps from setup to deletion, each with the command for it. None of
the steps before "aivm code ." is required: it does all that is needed itself.

Examples:
  aivm help plan
  aivm help plan --config other.toml
` + cli.ExitStatuses,
		RunE: func(*cobra.Command, []string) error {
			with := ""
			if a.Config != "" {
				with = " --config " + cli.QuoteWord(a.Config)
			}
			for i, s := range []struct{ do, why string }{
				{"aivm host doctor", "check whether this machine can run VMs"},
				{"aivm config init --defaults", "write the defaults to the config, to edit them (optional)"},
				{"aivm host image-fetch", "download the guest image in advance (optional)"},
				{"aivm code . --dry-run", "show what would be done"},
				{"aivm code .", "create the VM, attach this folder, open the editor"},
				{"aivm status", "show the VM's state and what the guest can reach"},
				{"aivm ssh .", "open a shell in the folder, in the VM"},
				{"aivm vm down", "stop the VM; aivm code . starts it again"},
				{"aivm vm delete NAME", "delete the VM and its disk"},
			} {
				a.UI.Result("%d. %-42s %s", i+1, s.do+with, s.why)
			}
			return nil
		},
	}
}

func (a app) helpTreeCmd() *cobra.Command {
	return &cobra.Command{
		Use: "tree", Short: "Print all commands", Args: cli.NoArgs,
		Long: `Print all commands as a tree, each with a one-line description.

Examples:
  aivm help tree
  aivm help tree | grep vm
` + cli.ExitStatuses,
		RunE: func(c *cobra.Command, _ []string) error {
			var walk func(*cobra.Command, string)
			walk = func(c *cobra.Command, indent string) {
				for _, k := range c.Commands() {
					if k.IsAvailableCommand() {
						a.UI.Result("%s%-*s %s", indent, 24-len(indent), k.Name(), k.Short)
						walk(k, indent+"  ")
					}
				}
			}
			a.UI.Result("aivm")
			walk(c.Root(), "  ")
			return nil
		},
	}
}

func (a app) helpRawCmd() *cobra.Command {
	var vm string
	c := &cobra.Command{
		Use: "raw", Short: "Print commands of virsh, nft and ssh that inspect a VM", Args: cli.NoArgs,
		Long: `Print commands of virsh, nft, qemu-img and ssh that inspect a VM, its network and
its firewall, for use without aivm. The VM is the one of the current directory, or
--vm. Nothing is executed.

Examples:
  aivm help raw
  aivm help raw --vm work
` + cli.ExitStatuses,
		RunE: func(*cobra.Command, []string) error {
			s, cwd, err := a.Here()
			if err != nil {
				return err
			}
			if a.HostSrc != "" {
				if cwd, err = filepath.Abs(a.HostSrc); err != nil {
					return err
				}
			}
			r, err := s.Resolve(cwd, vm)
			if err != nil {
				return err
			}
			rec, _ := s.Config.FindVM(r.VM)
			n, err := s.Config.NetworkOf(rec)
			if err != nil {
				return err
			}
			libvirt, err := rec.VM.Libvirt()
			if err != nil {
				return err
			}
			tables := wall.Wall{Network: n.Network.Name, Prefix: n.Firewall.Table}.Tables()
			name, net, virsh := cli.QuoteWord(r.VM), cli.QuoteWord(n.Network.Name), libvirt.Virsh("")
			for _, l := range []string{
				virsh + "dominfo " + name, virsh + "dumpxml " + name, virsh + "domblklist " + name, virsh + "console " + name,
				virsh + "net-dumpxml " + net, virsh + "net-dhcp-leases " + net, virsh + "pool-list --details",
				"qemu-img info -U " + cli.QuoteWord(rec.Paths.BaseDir) + "/*-" + name + ".qcow2",
				"nft list table " + tables[0], "nft list table " + tables[1], "nft list table " + tables[2],
				"ip address show " + cli.QuoteWord(n.Network.Bridge), "ssh -G " + name, "ssh -v " + name,
			} {
				a.UI.Result("%s", l)
			}
			return nil
		},
	}
	a.VMFlag(c, &vm, cli.VMUsage)
	c.Flags().StringVar(&a.HostSrc, "host-src", "", "the folder")
	_ = c.Flags().MarkHidden("host-src")
	return c
}
