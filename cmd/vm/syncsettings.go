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
	c := a.VMVerb("sync-settings", "Copy your settings and dotfiles into a VM", `Copy your settings into a running VM: the files and directories in sync.paths of the
config; your git configuration with the files that it names, without the parts that
only work on this machine; and your editor's settings, to where its server in the guest
reads them. Only changes are sent. A file that was changed in the guest is replaced, and
the guest's version is kept as a backup. Files that seem to contain a secret are not
sent.

Examples:
  aivm vm sync-settings
  aivm vm sync-settings work --paths ~/.tmux.conf,~/.config/nvim
  aivm vm sync-settings --dry-run
`, func(ctx context.Context, e *provision.Env, name string) error {
		r, err := e.SyncSettings(ctx, name, editorName, o)
		if r.Schema != 0 { // if some files failed, there is a result and an error: print both
			if perr := a.Show(r, nil, func() { a.printSettings(r) }); perr != nil {
				return perr
			}
		}
		return err
	})
	f := c.Flags()
	f.StringSliceVar(&o.Paths, "paths", nil, "copy these files and directories instead of sync.paths (comma-separated; HOST=GUEST for another guest path)")
	f.BoolVar(&overwrite, "overwrite", true, "replace files that were changed in the guest, keeping a backup; =false leaves them")
	f.StringVar(&editorName, "editor", "", "editor whose settings to copy (default: the one aivm code opens)")
	_ = c.RegisterFlagCompletionFunc("editor", cli.Fixed(editor.IDs()...))
	f.StringSliceVar(&o.Extensions, "extensions", nil, cli.ExtensionsUsage)
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
		{"does not exist on this machine", r.Missing},
		{"changed in the guest, not replaced", r.Kept},
		{"backup of the guest's version", r.Backups},
		{"changed on both sides, the guest's version is kept", r.Conflicts},
		{"not copied, only for this machine", r.LeftOut},
		{"no longer in sync.paths, still in the guest", r.Dropped},
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
