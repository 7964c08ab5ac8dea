package show

import (
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"aivm.dev/aivm/cmd/cli"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision"
)

var sections = []string{"all", "folders", "networks", "runs", "templates", "vms"}

// ListCmd builds "aivm list".
func (a Verbs) ListCmd() *cobra.Command { return a.lister("all") }

// VMListCmd builds "aivm vm list".
func (a Verbs) VMListCmd() *cobra.Command { return a.lister("vms") }

// lister builds a list command; preset is the default of --section.
func (a Verbs) lister(preset string) *cobra.Command {
	var section string
	c := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List VMs, networks, attached folders, templates and runs", Args: cli.NoArgs,
		Long: `List VMs, networks and attached folders, and of one-shot VMs the templates and the runs
that are alive. No VM is contacted.

Folder states: ok means that this machine shares the folder with the VM ("aivm status"
also checks that the VM has mounted it); detaching means that the folder is still
shared although it is no longer attached. CPUs and memory are those a VM has; where the
config has others, it says so and how to apply them. A template is ready, stale (a run
boots it, which takes longer; "aivm setup" builds it again) or building.

Examples:
  aivm list
  aivm list --section vms --json
` + cli.ExitStatuses,
		RunE: func(c *cobra.Command, _ []string) error {
			if !slices.Contains(sections, section) {
				return ui.Usage("--section must be one of: %s", strings.Join(sections, ", "))
			}
			e, err := a.Provision("list")
			if err != nil {
				return err
			}
			l, err := e.Listing(c.Context())
			if err != nil {
				return err
			}
			if a.UI.JSON {
				return a.UI.PrintJSON(l)
			}
			a.printListing(l, section)
			return nil
		},
	}
	c.Flags().StringVar(&section, "section", preset, "what to list: all, vms, networks, folders, templates or runs")
	_ = c.RegisterFlagCompletionFunc("section", cli.Fixed(sections...))
	return c
}

func (a Verbs) printListing(l provision.Listing, section string) {
	show := func(name, title string, rows int, printRows func()) {
		if section != "all" && section != name {
			return
		}
		a.UI.Result("%s", title)
		if rows == 0 {
			a.UI.Result("  (none)")
		}
		printRows()
	}
	yes := map[bool]string{true: "yes", false: "no"}
	show("vms", "Managed VMs", len(l.VMs), func() {
		for _, v := range l.VMs {
			mark := ""
			if v.Name == l.ActiveVM {
				mark = " | active"
			}
			if d := v.Configured; d != nil {
				mark += " | " + d.Text()
				if d.Apply != "" {
					mark += ": " + d.Apply
				}
			}
			if v.NotAdopted {
				mark += " | not adopted yet: aivm vm adopt " + v.Name
			}
			if v.AliasFault != "" {
				mark += " | ssh " + v.Alias + " does not work: " + v.AliasFault + "; aivm host doctor"
			}
			a.UI.Result("  - %s | state=%s | address=%s | network=%s | cpus=%d | ram_mb=%d | disk_gb=%d%s", v.Name, v.State, cli.OrDash(v.Address), v.Network, v.CPUs, v.RAMMB, v.DiskGB, mark)
		}
	})
	show("networks", "Managed Networks", len(l.Networks), func() {
		for _, n := range l.Networks {
			a.UI.Result("  - %s | bridge=%s | subnet=%s | strict_firewall=%s | vm_count=%d", n.Name, n.Bridge, n.Subnet, yes[n.Firewall]+map[bool]string{true: " (" + n.Rules + ")"}[!n.Firewall], n.VMs)
		}
	})
	show("folders", "Attached Folders", len(l.Folders), func() {
		for _, f := range l.Folders {
			a.UI.Result("  - %s | vm=%s | mode=%s | access=%s | guest_dst=%s | state=%s", f.HostPath, f.VM, f.Mode, f.Access, f.GuestDst, f.State)
		}
	})
	show("templates", "Templates of aivm run", len(l.Templates), func() {
		for _, t := range l.Templates {
			why := ""
			if t.Why != "" {
				why = " | " + ui.Clean(t.Why)
			}
			a.UI.Result("  - %s | state=%s | size=%s | image=%s | cpus=%d | memory_mb=%d%s", t.Name, t.State, humanize.Bytes(uint64(max(t.Size, 0))), cli.OrDash(ui.Clean(t.Image)), t.CPUs, t.MemoryMB, why)
		}
	})
	show("runs", "Runs", len(l.Runs), func() {
		for _, r := range l.Runs {
			a.UI.Result("  - %s | state=%s | template=%s | folder=%s | command=%s", r.Name, r.State, r.Template, cli.OrDash(ui.Clean(r.Folder)), ui.CleanTo(strings.Join(r.Argv, " "), 60))
		}
	})
	a.UI.Result("Config store: %s", l.Store)
}
