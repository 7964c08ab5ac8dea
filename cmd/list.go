package cmd

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision"
)

var sections = []string{"all", "folders", "networks", "vms"}

func (a *app) listCmd() *cobra.Command { return a.lister("all") }

func (a *app) vmListCmd() *cobra.Command { return a.lister("vms") }

func (a *app) lister(preset string) *cobra.Command {
	var section string
	c := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List VMs, networks and attached folders", Args: noArgs,
		Long: `List VMs, networks and attached folders.

The state of a folder is what this machine knows without asking the VM: ok is
shared with it (aivm status asks whether the VM has mounted it), detaching is
shared with it though it is not attached.

Examples:
  aivm list
  aivm list --section vms --json
` + exitStatuses,
		RunE: func(c *cobra.Command, _ []string) error {
			if !slices.Contains(sections, section) {
				return ui.Usage("--section must be one of: %s", strings.Join(sections, ", "))
			}
			e, err := a.provision("list")
			if err != nil {
				return err
			}
			l, err := e.Listing(c.Context())
			if err != nil {
				return err
			}
			if a.ui.JSON {
				return a.ui.PrintJSON(l)
			}
			a.printListing(l, section)
			return nil
		},
	}
	c.Flags().StringVar(&section, "section", preset, "all, vms, networks or folders")
	_ = c.RegisterFlagCompletionFunc("section", fixed(sections...))
	return c
}

func (a *app) printListing(l provision.Listing, section string) {
	show := func(name, title string, rows int, print func()) {
		if section != "all" && section != name {
			return
		}
		a.ui.Result("%s", title)
		if rows == 0 {
			a.ui.Result("  (none)")
		}
		print()
	}
	yes := map[bool]string{true: "yes", false: "no"}
	show("vms", "Managed VMs", len(l.VMs), func() {
		for _, v := range l.VMs {
			mark := ""
			if v.Name == l.ActiveVM {
				mark = " | active"
			}
			if v.NotAdopted {
				mark += " | not aivm's yet: aivm vm adopt " + v.Name
			}
			a.ui.Result("  - %s | state=%s | address=%s | network=%s | cpus=%d | ram_mb=%d | disk_gb=%d%s", v.Name, v.State, orDash(v.Address), v.Network, v.CPUs, v.RAMMB, v.DiskGB, mark)
		}
	})
	show("networks", "Managed Networks", len(l.Networks), func() {
		for _, n := range l.Networks {
			a.ui.Result("  - %s | bridge=%s | subnet=%s | strict_firewall=%s | vm_count=%d", n.Name, n.Bridge, n.Subnet, yes[n.Firewall]+map[bool]string{true: " (" + n.Rules + ")"}[!n.Firewall], n.VMs)
		}
	})
	show("folders", "Attached Folders", len(l.Folders), func() {
		for _, f := range l.Folders {
			a.ui.Result("  - %s | vm=%s | mode=%s | access=%s | guest_dst=%s | state=%s", f.HostPath, f.VM, f.Mode, f.Access, f.GuestDst, f.State)
		}
	})
	a.ui.Result("Config store: %s", l.Store)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func noArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return ui.Usage("%s takes no argument, not %q", c.CommandPath(), args[0]).Hint(c.CommandPath() + " --help")
	}
	return nil
}
