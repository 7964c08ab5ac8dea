package config

import (
	"errors"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"aivm.dev/aivm/cmd/cli"
	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/ui"
)

// Cmd builds "aivm config".
func (a Verbs) Cmd() *cobra.Command {
	return cli.Group("config", "Show, edit and check the config", `  aivm config path
  aivm config init --defaults
`, a.configInitCmd(), a.configShowCmd(), a.configPathCmd(), a.configEditCmd(), a.configLintCmd())
}

func (a Verbs) configInitCmd() *cobra.Command {
	var defaults, force bool
	c := &cobra.Command{
		Use: "init", Short: "Write the defaults for new VMs to the config", Args: cli.NoArgs,
		Long: `Write the defaults for new VMs to the config, so that you can edit them. This is
optional: "aivm code ." works without it. No VM is created. The answer e writes them
and opens them in a text editor, like "aivm config edit".

Examples:
  aivm config init --defaults
  aivm config init --yes --force    replace existing defaults
` + cli.ExitStatuses,
		RunE: func(c *cobra.Command, _ []string) error {
			path, err := a.StorePath()
			if err != nil {
				return err
			}
			edit := false
			if !defaults && !a.Yes {
				if !a.UI.InTTY {
					return ui.NeedsApproval("writing the config needs your approval and there is no terminal: re-run with --yes or --defaults").
						Hint(ui.Cmd("aivm config init --defaults"))
				}
				answer, err := a.UI.ConfirmOrEdit(c.Context(), "Write the built-in defaults to "+path+" (e: and edit them)?")
				if err != nil {
					return err
				}
				if answer == ui.No {
					return ui.NeedsApproval("nothing was changed")
				}
				if edit = answer == ui.Edit; edit {
					if _, err := a.textEditor(""); err != nil {
						return err
					}
				}
			}
			if a.DryRun {
				a.UI.Result("DRYRUN: would write the defaults to %s", path)
				return nil
			}
			if err := config.Init(c.Context(), path, config.DefaultConfig().Defaults, force); err != nil {
				return err
			}
			a.UI.Result("Updated config defaults: %s", path)
			if edit {
				if err := a.edit(c, path, ""); err != nil {
					return err
				}
			}
			a.UI.Result("No VM created.")
			a.UI.Say("You do not need an SSH key: aivm creates its own with the first VM.")
			return nil
		},
	}
	c.Flags().BoolVar(&defaults, "defaults", false, "write the built-in defaults without asking")
	c.Flags().BoolVar(&force, "force", false, "replace existing defaults")
	a.DryRunFlag(c)
	return c
}

func (a Verbs) configShowCmd() *cobra.Command {
	return &cobra.Command{
		Use: "show", Short: "Print the config", Args: cli.NoArgs,
		Long: `Print the config file unchanged.

Examples:
  aivm config show
  aivm config show --config other.toml
` + cli.ExitStatuses,
		RunE: func(*cobra.Command, []string) error {
			path, err := a.StorePath()
			if err != nil {
				return err
			}
			b, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) {
				return ui.Refused("Config store not found: %s", path).Hint(ui.Cmd("aivm config init --defaults"))
			}
			if err != nil {
				return ui.Failed("reading the config: %w", err)
			}
			if a.UI.JSON {
				return a.UI.PrintJSON(map[string]any{"schema": 1, "config": path, "text": string(b)})
			}
			_, err = a.UI.Out.Write(b)
			return err
		},
	}
}

// located is the JSON output of "config path".
type located struct {
	Schema        int      `json:"schema"`
	Config        string   `json:"config"`
	Exists        bool     `json:"exists"`
	Cwd           string   `json:"cwd"`
	ActiveVM      string   `json:"active_vm"`
	AttachmentVMs []string `json:"attachment_vms"`
	ResolvedVM    string   `json:"resolved_vm,omitempty"`
	Error         string   `json:"resolution_error,omitempty"`
}

func (a Verbs) configPathCmd() *cobra.Command {
	var vm string
	c := &cobra.Command{
		Use: "path", Aliases: []string{"paths"}, Short: "Print the config's path and the current directory's VM", Args: cli.NoArgs,
		Long: `Print the path of the config, the active VM, and the VM of the current directory.

Examples:
  aivm config path
  aivm config path --json
` + cli.ExitStatuses,
		RunE: func(*cobra.Command, []string) error {
			s, cwd, err := a.Here()
			if err != nil {
				return err
			}
			if a.HostSrc != "" {
				cwd = a.HostSrc
			}
			l := located{Schema: 1, Config: s.Path, Exists: s.Exists, Cwd: cwd, ActiveVM: s.Config.ActiveVM, AttachmentVMs: []string{}}
			for _, at := range s.Config.AttachmentsOf(cwd) {
				l.AttachmentVMs = append(l.AttachmentVMs, at.VMName)
			}
			if r, err := s.Resolve(cwd, vm); err != nil {
				l.Error = err.Error()
			} else {
				l.ResolvedVM = r.VM
			}
			if a.UI.JSON {
				return a.UI.PrintJSON(l)
			}
			there := "(missing)"
			if l.Exists {
				there = "(exists)"
			}
			a.UI.Result("cwd = %s", l.Cwd)
			a.UI.Result("config_store = %s %s", l.Config, there)
			a.UI.Result("active_vm = %s", cli.OrDash(l.ActiveVM))
			a.UI.Result("attachment_vms = %v", l.AttachmentVMs)
			if l.Error != "" {
				a.UI.Result("resolution_error = %s", l.Error)
			} else {
				a.UI.Result("resolved_vm = %s", l.ResolvedVM)
			}
			return nil
		},
	}
	a.VMFlag(c, &vm, cli.VMUsage)
	c.Flags().StringVar(&a.HostSrc, "host-src", "", "the folder")
	_ = c.Flags().MarkHidden("host-src")
	return c
}

func (a Verbs) configLintCmd() *cobra.Command {
	return &cobra.Command{
		Use: "lint", Short: "Check the config for unknown keys and invalid values", Args: cli.NoArgs,
		Long: `Check the config for unknown keys and for values of a wrong type.

Examples:
  aivm config lint
  aivm config lint --config other.toml

Exit status: 0 no problem found; 1 wrong usage; 2 problems found, or no config exists.`,
		RunE: func(*cobra.Command, []string) error {
			path, err := a.StorePath()
			if err != nil {
				return err
			}
			ps, err := config.Lint(path)
			if err != nil {
				return err
			}
			if a.UI.JSON {
				if err := a.UI.PrintJSON(map[string]any{"schema": 1, "config": path, "problems": ps}); err != nil {
					return err
				}
			} else if len(ps) == 0 {
				a.UI.Result("✅ Config lint passed")
			} else {
				for _, p := range ps {
					a.UI.Result("%s", p)
				}
			}
			if len(ps) > 0 {
				return ui.Status(ui.ExitRefused)
			}
			return nil
		},
	}
}
