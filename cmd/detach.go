package cmd

import (
	"github.com/spf13/cobra"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/provision"
)

func (a *app) detachCmd() *cobra.Command {
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
` + exitStatuses,
		ValidArgsFunction: a.completeAttached,
		RunE: func(c *cobra.Command, args []string) error {
			e, folder, err := a.onFolder("detach", args)
			if err != nil {
				return err
			}
			o.Folder = folder
			return e.Detach(c.Context(), o)
		},
	}
	f := c.Flags()
	a.vmFlag(c, &o.VM, "the VM to take it away from")
	f.BoolVar(&o.Force, "force", false, "if it is in use, leave the rest to the VM's next stop")
	f.StringVar(&a.hostSrc, "host-src", "", "the folder")
	_ = f.MarkHidden("host-src")
	a.dryRunFlag(c)
	return c
}

// completeAttached offers the folders of the store.
func (a *app) completeAttached(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	path, err := a.storePath()
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	s, err := config.Load(path)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var out []string
	for _, r := range s.Config.Attachments {
		out = append(out, r.HostPath)
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}
