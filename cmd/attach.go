package cmd

import (
	"al.essio.dev/pkg/shellescape"
	"github.com/spf13/cobra"

	"aivm.dev/aivm/provision"
)

func (a *app) attachCmd() *cobra.Command {
	var o provision.FolderOptions
	c := &cobra.Command{
		Use:   "attach [folder]",
		Short: "Make a folder visible in a VM",
		Long: `Make a folder of this machine visible in a VM, at the same path. The VM must
exist; one that is off stays off and shows the folder when it is next started.
A folder inside an attached one belongs to that; to have it at another place too,
or to write a part of a read-only folder, attach it with --guest-dst or --access.

Examples:
  aivm attach .                  the folder here, in its VM
  aivm attach ~/data --access ro only to be read
  aivm attach . --protect        to be written, except what this machine's tools run
` + exitStatuses,
		ValidArgsFunction: completeFolder,
		RunE: func(c *cobra.Command, args []string) error {
			e, folder, err := a.onFolder("attach", args)
			if err != nil {
				return err
			}
			o.Folder = folder
			r, err := e.Attach(c.Context(), o)
			return a.show(r, err, func() { a.printAttached(r) })
		},
	}
	a.folderFlags(c, &o)
	c.Flags().BoolVar(&o.Reviewed, "reviewed", false, "you looked at what changed of the files this machine's tools run: have status compare with them as they are now")
	return c
}

func (a *app) printAttached(r provision.AttachResult) {
	a.ui.Result("Attached %s to VM %s (%s mode, access=%s)", r.Folder, r.VM, r.Mode, r.Access)
	switch {
	case r.Remote != "" && !r.Mounted:
		a.ui.Result("The clone at %s is made when VM %s runs: %s", r.GuestDst, r.VM, r.Opens)
	case r.Remote != "":
		a.ui.Result("Guest clone ready at %s", r.GuestDst)
		a.ui.Say("The repository knows it as the remote %s: git fetch %s, git push %s; or aivm git status %s", r.Remote, r.Remote, r.Remote, shellescape.Quote(r.Folder))
	case r.Mounted:
		a.ui.Result("Mounted in running VM at %s", r.GuestDst)
	case r.Running:
		a.ui.Result("VM %s runs but was not asked; to have the folder at %s: %s", r.VM, r.GuestDst, r.Opens)
	default:
		a.ui.Result("VM %s is not running; to have the folder at %s: %s", r.VM, r.GuestDst, r.Opens)
	}
	if r.Changed {
		a.ui.Say("Recorded in %s", r.Config)
	}
}
