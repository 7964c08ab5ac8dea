package cmd

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"

	"github.com/spf13/cobra"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/ui"
)

func (a *app) configEditCmd() *cobra.Command {
	var editor string
	c := &cobra.Command{
		Use: "edit", Short: "Open the config in a text editor and check it afterwards", Args: noArgs,
		Long: `Open the config in a text editor (--editor, $EDITOR, $VISUAL, nano, vi) and check
it afterwards.

Examples:
  aivm config edit
  aivm config edit --editor "code --wait"

Exit status: 0 done and clean; 1 wrong usage; 2 refused, or something is wrong in
the config.`,
		RunE: func(c *cobra.Command, _ []string) error {
			path, err := a.storePath()
			if err != nil {
				return err
			}
			if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
				return ui.Refused("Config store not found: %s", path).Hint("aivm config init --defaults")
			}
			line, err := a.textEditor(editor)
			if err != nil {
				return err
			}
			// $EDITOR is a piece of shell by custom ("code --wait").
			cmd := exec.CommandContext(c.Context(), "sh", "-c", "exec "+line+` "$1"`, "sh", path)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = a.ui.In, a.ui.Out, a.ui.Err
			if err := cmd.Run(); err != nil {
				return ui.Failed("the editor %q: %w", line, err).Hint("choose another: aivm config edit --editor PROGRAM")
			}
			ps, err := config.Lint(path)
			if err != nil {
				return err
			}
			for _, p := range ps {
				a.ui.Result("%s", p)
			}
			if len(ps) > 0 {
				return ui.Refused("%d things are wrong in %s", len(ps), path).Hint("aivm config edit")
			}
			return nil
		},
	}
	c.Flags().StringVar(&editor, "editor", "", "the text editor, with its flags")
	return c
}

func (a *app) textEditor(flag string) (string, error) {
	for _, s := range []string{flag, os.Getenv("EDITOR"), os.Getenv("VISUAL")} {
		if s != "" {
			return s, nil
		}
	}
	if !a.ui.InTTY {
		return "", ui.Refused("there is no terminal to edit in").Hint("aivm config path", "aivm config edit --editor PROGRAM")
	}
	for _, s := range []string{"nano", "vi"} {
		if _, err := exec.LookPath(s); err == nil {
			return s, nil
		}
	}
	return "", ui.Refused("no text editor is found").Hint("aivm config edit --editor PROGRAM", "aivm config path")
}
