package cmd

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"al.essio.dev/pkg/shellescape"
	"github.com/spf13/cobra"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/ui"
)

func (a *app) configEditCmd() *cobra.Command {
	var editor string
	c := &cobra.Command{
		Use: "edit", Short: "Open the config in a text editor and check it afterwards", Args: noArgs,
		Long: `Open a copy of the config in a text editor (--editor, $EDITOR, $VISUAL, nano, vi),
take it over when the editor ends, and check it. What other runs record meanwhile
stays in it.

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
			if err := a.edited(c.Context(), path, line); err != nil {
				return err
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

// edited opens a copy of the config in an editor and takes over what was made
// of it. A copy: other runs record things meanwhile, and an editor that writes
// the file itself would write over them, or they over it.
func (a *app) edited(ctx context.Context, path, line string) error {
	base, err := config.Text(path)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "aivm-config-")
	if err != nil {
		return ui.Failed("a copy of the config to edit could not be made: %w", err).Hint("df -h " + shellescape.Quote(os.TempDir()))
	}
	copied := filepath.Join(dir, filepath.Base(path))
	if err := os.WriteFile(copied, base, 0o600); err != nil {
		return ui.Failed("a copy of the config to edit could not be made: %w", err).Hint("df -h " + shellescape.Quote(dir))
	}
	kept := false
	defer func() {
		if !kept {
			_ = os.RemoveAll(dir) // nothing but the copy, and what the editor put beside it
		}
	}()
	// $EDITOR is a piece of shell by custom ("code --wait").
	cmd := exec.CommandContext(ctx, "sh", "-c", "exec "+line+` "$1"`, "sh", copied)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.ui.In, a.ui.Out, a.ui.Err
	if err := cmd.Run(); err != nil {
		return ui.Failed("the editor %q: %w", line, err).Hint("choose another: aivm config edit --editor PROGRAM")
	}
	text, err := os.ReadFile(copied)
	if err == nil && !bytes.Equal(text, base) {
		err = config.Edited(ctx, path, base, text)
	}
	if err == nil {
		return nil
	}
	kept = true
	q, was := shellescape.Quote(copied), shellescape.Quote(path)
	if errors.Is(err, config.ErrEdited) {
		return ui.Refused("the config %s was not written: %w; yours is kept in %s", path, err, copied).
			Hint("see what differs: diff "+was+" "+q, "write yours over it: cp "+q+" "+was)
	}
	a.ui.Say("what you wrote is kept in %s", copied)
	return err
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
