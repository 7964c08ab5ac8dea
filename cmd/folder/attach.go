package folder

import (
	"al.essio.dev/pkg/shellescape"
	"github.com/spf13/cobra"

	"aivm.dev/aivm/cmd/cli"
	"aivm.dev/aivm/provision"
)

// AttachCmd builds "aivm attach".
func (a Verbs) AttachCmd() *cobra.Command {
	var o provision.FolderOptions
	c := &cobra.Command{
		Use:   "attach [folder]",
		Short: "Make a folder available in a VM",
		Long: `Make a folder of this machine available in a VM, at the same path. The VM must exist.
A VM that is off is not started; it gets the folder at its next start.

A folder inside an attached folder is already available through that one. Attach it
separately, with --guest-dst, to have it at a second path, or with --access rw, to
make it writable inside a read-only folder.

Examples:
  aivm attach .                    the current directory
  aivm attach ~/data --access ro   the VM may only read it
  aivm attach . --protect          the VM may write it, except Makefiles, git hooks
                                   and other files that programs here execute
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
	c.Flags().BoolVar(&o.Reviewed, "reviewed", false, "confirm that you reviewed the changed host-executed files; aivm status then reports only later changes")
	return c
}

func (a Verbs) printAttached(r provision.AttachResult) {
	a.UI.Result("Attached %s to VM %s (%s mode, access=%s)", r.Folder, r.VM, r.Mode, r.Access)
	switch {
	case r.Remote != "" && !r.Mounted:
		a.UI.Result("The clone at %s will be made when VM %s runs: %s", r.GuestDst, r.VM, r.Opens)
	case r.Remote != "":
		a.UI.Result("Guest clone ready at %s", r.GuestDst)
		a.UI.Say("In the repository, it is the git remote %s: git fetch %s, git push %s; or aivm git status %s", r.Remote, r.Remote, r.Remote, shellescape.Quote(r.Folder))
	case r.Mounted:
		a.UI.Result("Mounted in running VM at %s", r.GuestDst)
	case r.Running:
		a.UI.Result("VM %s is running, but aivm did not connect to it; to mount the folder at %s: %s", r.VM, r.GuestDst, r.Opens)
	default:
		a.UI.Result("VM %s is not running; to mount the folder at %s: %s", r.VM, r.GuestDst, r.Opens)
	}
	if r.Changed {
		a.UI.Say("Recorded in %s", r.Config)
	}
}
