package folder

import (
	"al.essio.dev/pkg/shellescape"
	"github.com/spf13/cobra"

	"aivm.dev/aivm/cmd/cli"
	"aivm.dev/aivm/provision"
)

// AttachCmd is `aivm attach`.
func (a Verbs) AttachCmd() *cobra.Command {
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
` + cli.ExitStatuses,
		ValidArgsFunction: cli.CompleteFolder,
		RunE: func(c *cobra.Command, args []string) error {
			e, folder, err := a.OnFolder("attach", args)
			if err != nil {
				return err
			}
			o.Folder = folder
			r, err := e.Attach(c.Context(), o)
			return a.Show(r, err, func() { a.printAttached(r) })
		},
	}
	a.FolderFlags(c, &o)
	c.Flags().BoolVar(&o.Reviewed, "reviewed", false, "you looked at what changed of the files this machine's tools run: have status compare with them as they are now")
	return c
}

func (a Verbs) printAttached(r provision.AttachResult) {
	a.UI.Result("Attached %s to VM %s (%s mode, access=%s)", r.Folder, r.VM, r.Mode, r.Access)
	switch {
	case r.Remote != "" && !r.Mounted:
		a.UI.Result("The clone at %s is made when VM %s runs: %s", r.GuestDst, r.VM, r.Opens)
	case r.Remote != "":
		a.UI.Result("Guest clone ready at %s", r.GuestDst)
		a.UI.Say("The repository knows it as the remote %s: git fetch %s, git push %s; or aivm git status %s", r.Remote, r.Remote, r.Remote, shellescape.Quote(r.Folder))
	case r.Mounted:
		a.UI.Result("Mounted in running VM at %s", r.GuestDst)
	case r.Running:
		a.UI.Result("VM %s runs but was not asked; to have the folder at %s: %s", r.VM, r.GuestDst, r.Opens)
	default:
		a.UI.Result("VM %s is not running; to have the folder at %s: %s", r.VM, r.GuestDst, r.Opens)
	}
	if r.Changed {
		a.UI.Say("Recorded in %s", r.Config)
	}
}
