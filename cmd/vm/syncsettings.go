package vm

import (
	"context"

	"github.com/spf13/cobra"

	"aivm.dev/aivm/cmd/cli"
	"aivm.dev/aivm/internal/editor"
	"aivm.dev/aivm/provision"
)

func (a Verbs) vmSyncSettingsCmd() *cobra.Command {
	var o provision.SyncOptions
	var editorName string
	var overwrite bool
	c := a.VMVerb("sync-settings", "Bring your settings and dotfiles into a VM", `Bring your settings into a VM that runs: the files and directories that sync.paths
names, your git identity without what belongs to this machine, and the editor's
settings where its server in the guest reads them. What has not changed is not sent;
what the guest changed is kept beside; files that hold a secret stay here.

Examples:
  aivm vm sync-settings
  aivm vm sync-settings work --paths ~/.tmux.conf,~/.config/nvim
  aivm vm sync-settings --dry-run
`, func(ctx context.Context, e *provision.Env, name string) error {
		r, err := e.SyncSettings(ctx, name, editorName, o)
		if r.Schema != 0 { // problems with some are an error beside the report
			if perr := a.Show(r, nil, func() { a.printSettings(r) }); perr != nil {
				return perr
			}
		}
		return err
	})
	f := c.Flags()
	f.StringSliceVar(&o.Paths, "paths", nil, "these instead of the configured ones (comma separated; HOST=GUEST for another place)")
	f.BoolVar(&overwrite, "overwrite", true, "replace what the guest changed, keeping it beside; false: leave it")
	f.StringVar(&editorName, "editor", "", "the editor whose settings are meant (default: the one code would open)")
	_ = c.RegisterFlagCompletionFunc("editor", cli.Fixed(editor.IDs()...))
	f.StringSliceVar(&o.Extensions, "extensions", nil, "editor extensions to install in the guest (ids, comma separated; workspace: those you have here; none)")
	cli.SecretFlag(c, &o.AllowSecret)
	c.PreRun = func(c *cobra.Command, _ []string) {
		if c.Flags().Changed("overwrite") {
			o.Overwrite = &overwrite
		}
	}
	a.DryRunFlag(c)
	return c
}

func (a Verbs) printSettings(r provision.SyncResult) {
	a.UI.Result("Settings in VM %s: copied %d, merged %d, unchanged %d, skipped_missing %d, skipped_exists %d (%d bytes sent)",
		r.VM, len(r.Copied), len(r.Merged), r.Unchanged, len(r.Missing), len(r.Kept), r.Bytes)
	for _, l := range []struct {
		what  string
		names []string
	}{
		{"copied", r.Copied},
		{"merged", r.Merged},
		{"not there on this machine", r.Missing},
		{"changed in the guest, and left", r.Kept},
		{"the guest's own is kept as", r.Backups},
		{"changed on both sides, the guest keeps its own", r.Conflicts},
		{"left out, for this machine only", r.LeftOut},
		{"no longer listed, and left in the guest", r.Dropped},
		{"note", r.Notes},
	} {
		for _, n := range l.names {
			a.UI.Result("  %s: %s", l.what, n)
		}
	}
	for _, p := range r.Problems {
		a.UI.Result("  not sent: %s", p)
	}
}
