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
		Use: "edit", Short: "Open the config in a text editor and check it afterwards", Args: cli.NoArgs,
		Long: `Open a copy of the config in a text editor (--editor, $EDITOR, $VISUAL, nano, vi),
take it over when the editor ends, and check it. What other runs record meanwhile
stays in it. Editors that return at once (code, gvim, kate, ...) get the flag that
makes them wait; where that is not known, the copy is kept and named, and --from
takes over what is saved in it later.

Examples:
  aivm config edit
  aivm config edit --editor code

Exit status: 0 done and clean; 1 wrong usage; 2 refused, or something is wrong in
the config.`,
		RunE: func(c *cobra.Command, _ []string) error {
			path, err := a.StorePath()
			if err != nil {
				return err
			}
			if from != "" {
				path, err = a.editedBefore(c, from)
			} else {
				err = a.editedNow(c, path, editor)
			}
			if err != nil {
				return err
			}
			ps, err := config.Lint(path)
			if err != nil {
				return err
			}
			for _, p := range ps {
				a.UI.Result("%s", p)
			}
			if len(ps) > 0 {
				return ui.Refused("%d things are wrong in %s", len(ps), path).Hint(ui.Cmd("aivm config edit"))
			}
			return nil
		},
	}
	c.Flags().StringVar(&editor, "editor", "", "the text editor, with its flags")
	c.Flags().StringVar(&from, "from", "", "take over this copy, `FILE`, of an earlier edit")
	c.MarkFlagsMutuallyExclusive("editor", "from")
	return c
}

func (a Verbs) textEditor(flag string) (string, error) {
	for _, s := range []string{flag, os.Getenv("EDITOR"), os.Getenv("VISUAL")} {
		if s != "" {
			return s, nil
		}
	}
	if !a.UI.InTTY {
		return "", ui.Refused("there is no terminal to edit in").Hint(ui.Cmd("aivm config path"), ui.Cmd("aivm config edit --editor PROGRAM"))
	}
	for _, s := range []string{"nano", "vi"} {
		if _, err := exec.LookPath(s); err == nil {
			return s, nil
		}
	}
	return "", ui.Refused("no text editor is found").Hint(ui.Cmd("aivm config edit --editor PROGRAM"), ui.Cmd("aivm config path"))
}
