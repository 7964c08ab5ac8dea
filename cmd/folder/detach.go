package folder

import (
	"fmt"

	"al.essio.dev/pkg/shellescape"
	"github.com/spf13/cobra"

	"aivm.dev/aivm/cmd/cli"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision"
)

// DetachCmd is `aivm detach`.
func (a Verbs) DetachCmd() *cobra.Command {
	var o provision.DetachOptions
	c := &cobra.Command{
		Use:   "detach [folder]",
		Short: "Take a folder away from a VM",
		Long: `Take a folder away from a VM. The folder itself stays as it is, or may be gone
already; the VM may be off, deleted or dead. It is done when nothing of the folder
is mounted for the VM any more: one that is in use stays attached, and what uses
it is named.

Of a folder in git mode the clone stays in the VM. What was committed there is
fetched first; what else only the clone has is named and asked about.

Examples:
  aivm detach .
  aivm detach ~/data --vm work
  aivm detach . --force   let the VM read on what it has open until it stops
` + cli.ExitStatuses,
		ValidArgsFunction: a.CompleteAttached,
		RunE: func(c *cobra.Command, args []string) error {
			e, folder, err := a.OnFolder("detach", args)
			if err != nil {
				return err
			}
			o.Folder = folder
			r, err := e.Detach(c.Context(), o)
			return a.Show(r, err, func() { a.printDetached(r) })
		},
	}
	f := c.Flags()
	a.VMFlag(c, &o.VM, "the VM to take it away from")
	f.BoolVar(&o.Force, "force", false, "if it is in use, leave the rest to the VM's next stop")
	f.StringVar(&a.HostSrc, "host-src", "", "the folder")
	_ = f.MarkHidden("host-src")
	a.DryRunFlag(c)
	return c
}

func (a Verbs) printDetached(r provision.DetachResult) {
	switch r.State {
	case "none":
		on := ""
		if r.VM != "" {
			on = " on VM " + r.VM
		}
		a.UI.Result("No attachment found for %s%s. Nothing to do.", ui.Clean(r.Folder), on)
	case "detaching":
		a.UI.Result("Detaching %s from VM %s (%s mode): it is in use, and what runs in the VM may read on until the VM stops", r.Folder, r.VM, r.Mode)
		a.UI.Say("to finish it: aivm vm down %s", r.VM)
	default:
		a.UI.Result("Detached %s from VM %s (%s mode)", r.Folder, r.VM, r.Mode)
		if r.Mode == "git" {
			a.sayCloneStays(r)
		}
	}
}

// sayCloneStays names what detach leaves in the VM. rm is only advised where
// nothing would be missed.
func (a Verbs) sayCloneStays(r provision.DetachResult) {
	c := r.Clone
	at := fmt.Sprintf("The clone %s in VM %s", r.GuestDst, r.VM)
	back := "aivm attach " + shellescape.Quote(r.Folder) + " --mode git --vm " + r.VM + " --guest-dst " + shellescape.Quote(r.GuestDst)
	switch {
	case c == nil || !c.Known:
		why := "it was not asked"
		if c != nil {
			why = c.Why
		}
		a.UI.Say("%s stays as it is, if there is one. What only it has cannot be known: %s", at, why)
		a.UI.Say("to have what it committed fetched: aivm vm up %s, then: %s", r.VM, back)
	case c.Only.Holds():
		a.UI.Say("%s stays as it is. Only it has what is named above; to go on with it: %s", at, back)
	default:
		for _, l := range c.Lines() {
			a.UI.Say("%s", l)
		}
		a.UI.Say("%s stays as it is; to remove it: ssh %s rm -rf %s", at, r.VM, shellescape.Quote(shellescape.Quote(r.GuestDst)))
	}
	a.UI.Say("What was fetched from it stays in refs/remotes/aivm-%s/ of %s", r.VM, r.Folder)
}
