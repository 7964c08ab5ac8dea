package cmd

import (
	"context"

	"github.com/spf13/cobra"

	"aivm.dev/aivm/internal/editor"
	"aivm.dev/aivm/provision"
)

func (a *app) vmSyncSettingsCmd() *cobra.Command {
	var o provision.SyncOptions
	var editorName string
	var overwrite bool
	c := a.vmVerb("sync-settings", "Bring your settings and dotfiles into a VM", `Bring your settings into a VM that runs: the files and directories that sync.paths
names, your git identity without what belongs to this machine, and the editor's
settings where its server in the guest reads them. What has not changed is not sent;
what the guest changed is kept beside; files that hold a secret stay here.

Examples:
  aivm vm sync-settings
  aivm vm sync-settings work --paths ~/.tmux.conf,~/.config/nvim
  aivm vm sync-settings --dry-run
`, func(ctx context.Context, e *provision.Env, name string) error {
		return e.SyncSettings(ctx, name, editorName, o)
	})
	f := c.Flags()
	f.StringSliceVar(&o.Paths, "paths", nil, "these instead of the configured ones (comma separated; HOST=GUEST for another place)")
	f.BoolVar(&overwrite, "overwrite", true, "replace what the guest changed, keeping it beside; false: leave it")
	f.StringVar(&editorName, "editor", "", "the editor whose settings are meant (default: the one code would open)")
	_ = c.RegisterFlagCompletionFunc("editor", fixed(editor.IDs()...))
	f.StringSliceVar(&o.Extensions, "extensions", nil, "editor extensions to install in the guest (ids, comma separated; workspace: those you have here; none)")
	secretFlag(c, &o.AllowSecret)
	c.PreRun = func(c *cobra.Command, _ []string) {
		if c.Flags().Changed("overwrite") {
			o.Overwrite = &overwrite
		}
	}
	a.dryRunFlag(c)
	return c
}

func secretFlag(c *cobra.Command, to *[]string) {
	c.Flags().StringArrayVar(to, "allow-secret", nil, "send this `FILE` although it holds something like a secret")
}
