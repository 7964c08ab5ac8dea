package folder

import (
	"strings"

	"github.com/spf13/cobra"

	"aivm.dev/aivm/cmd/cli"
	"aivm.dev/aivm/internal/editor"
	"aivm.dev/aivm/provision"
)

// CodeCmd is `aivm code`.
func (a Verbs) CodeCmd() *cobra.Command {
	var o provision.CodeOptions
	c := &cobra.Command{
		Use:   "code [folder]",
		Short: "Open a folder in its VM in your editor",
		Long: `Open a folder in its VM in your editor. What is missing on the way is made:
packages, the guest image, the network, the VM, the shared folder, the SSH alias.
All of it is shown first and asked for once.

Examples:
  aivm code .                       open the folder here
  aivm code ~/project --vm work     in the VM "work"
  aivm code . --sync-settings       with your settings and dotfiles
  aivm code . --editor code-server  in the browser, nothing of the guest reaching an editor here
  aivm code . --dry-run             see what would be done
` + cli.ExitStatuses,
		ValidArgsFunction: cli.CompleteFolder,
		RunE: func(c *cobra.Command, args []string) error {
			e, folder, err := a.OnFolder("code", args)
			if err != nil {
				return err
			}
			o.Folder = folder
			o.Serving = a.printServing
			r, err := e.Code(c.Context(), o)
			if err != nil || r.Found != nil && (r.Found.Editor.Kind == editor.Browser || r.Found.Editor.Kind == editor.Terminal) {
				return err
			}
			return a.Show(r, nil, func() { a.printOpened(r) })
		},
	}
	a.FolderFlags(c, &o.FolderOptions)
	a.ImageFlag(c, &o.Image, cli.ImageUsage+"; for a VM that has to be made")
	c.Flags().StringVar(&o.Editor, "editor", "", "the editor to open: see aivm editors (default: [editor] default, else the first one found)")
	_ = c.RegisterFlagCompletionFunc("editor", cli.Fixed(append(editor.IDs(), editor.Auto)...))
	c.Flags().BoolVar(&o.Snapshot, "snapshot", false, "keep the VM's disk first, as snapshot before-code-TIME (a VM that runs is stopped for it)")
	sync := c.Flags().Bool("sync-settings", false, "bring your settings into the guest first (default: as sync.enabled says)")
	c.Flags().StringSliceVar(&o.Paths, "sync-paths", nil, "bring these files and directories instead of the configured ones (comma separated)")
	cli.SecretFlag(c, &o.AllowSecret)
	c.Flags().StringVar(&o.Profile, "profile", "", "open with this profile of the editor")
	c.Flags().StringVar(&o.DataDir, "user-data-dir", "", "the editor's own directory of settings, passed on to it")
	c.Flags().StringSliceVar(&o.Extensions, "extensions", nil, "editor extensions to install in the guest (ids, comma separated; workspace: those you have here; none)")
	c.Flags().BoolVar(&o.NoBrowser, "no-browser", false, "with --editor code-server: print the address and open nothing")
	c.Flags().StringVar(&o.ServerArchive, "code-server-archive", "", "with --editor code-server: this release archive (`FILE`) instead of one that is fetched")
	c.PreRun = func(c *cobra.Command, _ []string) {
		if c.Flags().Changed("sync-settings") {
			o.Sync = sync
		}
	}
	a.RecreateFlags(c, "recreate-if-needed", "recreate")
	return c
}

// printServing prints the address of code-server, which is served from then on.
func (a Verbs) printServing(r provision.CodeResult) error {
	return a.Show(r, nil, func() {
		a.UI.Result("%s", r.URL)
		a.UI.Say("%s", r.Timing.Line())
	})
}

func (a Verbs) printOpened(r provision.CodeResult) {
	switch {
	case r.Opened:
		a.UI.Say("Opened %s on folder %s in VM %s (ssh %s)", r.Found.Editor.Name, r.GuestDst, r.VM, r.Alias)
	case r.Found != nil:
		a.UI.Result("%s", strings.TrimRight(r.Recipe.All(), "\n"))
	default:
		a.UI.Say("%s. The VM is ready; to open the folder:", r.Why)
		a.UI.Result("%s", strings.TrimRight(r.Recipe.Text(), "\n"))
	}
	a.UI.Say("%s", r.Timing.Line())
}
