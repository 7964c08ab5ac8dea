package config

import (
	"os"
	"os/exec"

	"github.com/spf13/cobra"

	"aivm.dev/aivm/cmd/cli"
	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/ui"
)

func (a Verbs) configEditCmd() *cobra.Command {
	var editor, from string
	c := &cobra.Command{
		Use: "edit", Short: "Edit the config in a text editor, then check it", Args: cli.NoArgs,
		Long: `Open a copy of the config in a text editor (--editor, $EDITOR, $VISUAL, nano, vi). When
the editor ends, the copy is written to the config and checked. Changes that other
aivm commands make to the config while you edit are kept.

Editors that return immediately (code, gvim, kate, ...) are started with the flag that
makes them wait. If aivm does not know that flag, it keeps the copy and prints its
path; save it, then apply it with --from.

Examples:
  aivm config edit
  aivm config edit --editor code

Exit status: 0 success, no problem found; 1 wrong usage; 2 refused, or the config has
problems.`,
		RunE: func(c *cobra.Command, _ []string) error {
			path, err := a.StorePath()
			if err != nil {
				return err
			}
			if from == "" {
				return a.edit(c, path, editor)
			}
			if path, err = a.applyEarlierCopy(c, from); err != nil {
				return err
			}
			return a.check(path)
		},
	}
	c.Flags().StringVar(&editor, "editor", "", "text editor to use, with its flags")
	c.Flags().StringVar(&from, "from", "", "write the copy `FILE`, kept by an earlier edit, to the config")
	c.MarkFlagsMutuallyExclusive("editor", "from")
	return c
}

// edit opens a copy of the config in the text editor of flag, writes it back, and checks it.
func (a Verbs) edit(c *cobra.Command, path, flag string) error {
	if err := a.editCopy(c, path, flag); err != nil {
		return err
	}
	return a.check(path)
}

// check prints the problems of the config.
func (a Verbs) check(path string) error {
	ps, err := config.Lint(path)
	if err != nil {
		return err
	}
	for _, p := range ps {
		a.UI.Result("%s", p)
	}
	if len(ps) > 0 {
		return ui.Refused("%d problems in %s", len(ps), path).Hint(ui.CmdFor("to fix them", "aivm config edit"))
	}
	return nil
}

// textEditor returns the command line of the text editor: the flag, $EDITOR, $VISUAL, or
// on a terminal the first of nano and vi that is installed.
func (a Verbs) textEditor(flag string) (string, error) {
	for _, s := range []string{flag, os.Getenv("EDITOR"), os.Getenv("VISUAL")} {
		if s != "" {
			return s, nil
		}
	}
	if !a.UI.InTTY {
		return "", ui.Refused("there is no terminal for a text editor").Hint(ui.CmdFor("to use a graphical editor", "aivm config edit --editor PROGRAM"), ui.CmdFor("to print the path of the config", "aivm config path"))
	}
	for _, s := range []string{"nano", "vi"} {
		if _, err := exec.LookPath(s); err == nil {
			return s, nil
		}
	}
	return "", ui.Refused("no text editor found: neither nano nor vi is installed").Hint(ui.CmdFor("to name one", "aivm config edit --editor PROGRAM"), ui.CmdFor("to print the path of the config", "aivm config path"))
}
