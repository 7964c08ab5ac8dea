package folder

import (
	"strings"

	"github.com/spf13/cobra"

	"aivm.dev/aivm/cmd/cli"
	"aivm.dev/aivm/internal/editor"
	"aivm.dev/aivm/provision"
)

// CodeCmd builds "aivm code".
func (a Verbs) CodeCmd() *cobra.Command {
	var o provision.CodeOptions
	c := &cobra.Command{
		Use:   "code [folder]",
		Short: "Open your editor on a folder in its VM",
		Long: `Open your editor on a folder in its VM. Whatever is missing is set up first: packages,
guest image, network, VM, shared folder, SSH alias. aivm shows what it will do and asks
once before it starts.

Examples:
  aivm code .                       open the current directory
  aivm code ~/project --vm work     open it in the VM "work"
  aivm code . --sync-settings       also copy your settings and dotfiles into the VM
  aivm code . --editor code-server  use an editor that runs in the VM, in your browser
  aivm code . --dry-run             show what would be done, change nothing
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
	a.ImageFlag(c, &o.Image, cli.ImageUsage+"; only used if the VM is created now")
	c.Flags().StringVar(&o.Editor, "editor", "", "editor to open, an ID from aivm editors (default: [editor] default in the config, else the first one found)")
	_ = c.RegisterFlagCompletionFunc("editor", cli.Fixed(append(editor.IDs(), editor.Auto)...))
	c.Flags().BoolVar(&o.Snapshot, "snapshot", false, "first save the VM's disk as snapshot before-code-TIME (a running VM is stopped for it)")
	sync := c.Flags().Bool("sync-settings", false, "first copy your settings into the VM, like aivm vm sync-settings (default: sync.enabled in the config)")
	c.Flags().StringSliceVar(&o.Paths, "sync-paths", nil, "copy these files and directories instead of sync.paths (comma-separated)")
	cli.SecretFlag(c, &o.AllowSecret)
	c.Flags().StringVar(&o.Profile, "profile", "", "editor profile to open the folder with")
	c.Flags().StringVar(&o.DataDir, "user-data-dir", "", "settings directory of the editor, passed to it")
	c.Flags().StringSliceVar(&o.Extensions, "extensions", nil, cli.ExtensionsUsage)
	c.Flags().BoolVar(&o.NoBrowser, "no-browser", false, "with --editor code-server: print the URL, do not open a browser")
	c.Flags().StringVar(&o.ServerArchive, "code-server-archive", "", "with --editor code-server: install from this release archive (`FILE`) instead of downloading one")
	c.PreRun = func(c *cobra.Command, _ []string) {
		if c.Flags().Changed("sync-settings") {
			o.Sync = sync
		}
	}
	a.RecreateFlags(c, "recreate-if-needed", "recreate")
	return c
}

// printServing prints the URL of code-server once it is served.
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
