package folder

import (
	"fmt"

	"al.essio.dev/pkg/shellescape"
	"github.com/spf13/cobra"

	"aivm.dev/aivm/cmd/cli"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision"
)

// DetachCmd builds "aivm detach".
func (a Verbs) DetachCmd() *cobra.Command {
	var o provision.DetachOptions
	c := &cobra.Command{
		Use:   "detach [folder]",
		Short: "Stop sharing a folder with a VM",
		Long: `Unmount a folder from a VM and remove its record. The folder itself does not change.
This also works if the folder no longer exists, or if the VM is off, deleted or does
not answer. A folder that is in use stays attached, and the processes that use it are
named.

The clone of a folder in git mode stays in the VM. Its commits are fetched first. If
anything else exists only in the clone, it is listed and you are asked.

Examples:
  aivm detach .
  aivm detach ~/data --vm work
  aivm detach . --force   detach although in use: open files stay readable in the VM
                          until it stops
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
	a.VMFlag(c, &o.VM, "VM to detach the folder from (default: the one it is attached to)")
	f.BoolVar(&o.Force, "force", false, "detach a folder that is in use; the detach is completed when the VM stops")
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
		a.UI.Result("Detaching %s from VM %s (%s mode): it is in use; processes in the VM can read files they have open until the VM stops", r.Folder, r.VM, r.Mode)
		a.UI.Say("to complete it now: aivm vm down %s", r.VM)
	default:
		a.UI.Result("Detached %s from VM %s (%s mode)", r.Folder, r.VM, r.Mode)
		if r.Mode == "git" {
			a.sayCloneStays(r)
		}
	}
}

// sayCloneStays prints that the clone stays in the VM and what exists only in it, and how to
// remove it if nothing would be lost.
func (a Verbs) sayCloneStays(r provision.DetachResult) {
	c := r.Clone
	at := fmt.Sprintf("The clone %s in VM %s", r.GuestDst, r.VM)
	back := "aivm attach " + shellescape.Quote(r.Folder) + " --mode git --vm " + r.VM + " --guest-dst " + shellescape.Quote(r.GuestDst)
	switch {
	case c == nil || !c.Known:
		why := "aivm did not connect to the VM"
		if c != nil {
			why = c.Why
		}
		a.UI.Say("%s stays, if it exists. What exists only in it is unknown: %s", at, why)
		a.UI.Say("to fetch its commits: aivm vm up %s && %s", r.VM, back)
	case c.Only.Holds():
		a.UI.Say("%s stays. What is listed above exists only there; to attach it again: %s", at, back)
	default:
		for _, l := range c.Lines() {
			a.UI.Say("%s", l)
		}
		if r.CloneIn != "" {
			a.UI.Say("%s stays. It lies in folder %s of this machine, which VM %s shares", at, ui.Clean(r.CloneIn), r.VM)
		} else {
			a.UI.Say("%s stays; to remove it: %s", at, r.RemoveClone)
		}
	}
	if r.Remote != "" {
		a.UI.Say("Commits fetched from it stay in refs/remotes/%s/ of %s", r.Remote, r.Folder)
	}
}
