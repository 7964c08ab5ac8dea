package cmd

import (
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
			return e.Attach(c.Context(), o)
		},
	}
	a.folderFlags(c, &o)
	c.Flags().BoolVar(&o.Reviewed, "reviewed", false, "you looked at what changed of the files this machine's tools run: have status compare with them as they are now")
	return c
}
