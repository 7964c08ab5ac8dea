package config

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"al.essio.dev/pkg/shellescape"
	"github.com/spf13/cobra"

	"aivm.dev/aivm/internal/config"
	"aivm.dev/aivm/internal/textedit"
	"aivm.dev/aivm/internal/ui"
)

// handoverTime bounds how fast an editor ends when it has only passed the file to a
// window that is already open.
const handoverTime = 5 * time.Second

// editCopy opens a copy of the config in an editor and writes the edited copy back. It
// works on a copy because other runs may write the config while the editor is open;
// editing the file itself would overwrite their changes, or they the editor's.
func (a Verbs) editCopy(c *cobra.Command, path, flag string) error {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return ui.Refused("Config store not found: %s", path).Hint(ui.Cmd("aivm config init --defaults"))
	}
	line, err := a.textEditor(flag)
	if err != nil {
		return err
	}
	dir, err := a.copiesDir()
	if err != nil {
		return err
	}
	for _, k := range config.SavedCopies(dir, path) {
		a.UI.Warn("an earlier edit was saved but not applied to the config: %s", k.Path)
		a.UI.Say("to apply it: %s; to delete it: rm -r %s", applyCommand(k), shellescape.Quote(k.Dir()))
	}
	k, done, err := config.NewEditCopy(c.Context(), dir, path, a.Rerun())
	if err != nil {
		return err
	}
	defer done()
	ed := textedit.Parse(line)
	if ed.Kind == textedit.Window {
		a.UI.Say("the config is open in: %s; save and close the file there", ed.Shell)
	}
	began := time.Now()
	if err := a.runEditor(c.Context(), ed, k.Path); err != nil {
		return a.editorFailed(c.Context(), k, ed, line, err)
	}
	quick := time.Since(began) < handoverTime
	finished, err := a.awaitEditor(c.Context(), ed, k, quick)
	if err != nil {
		a.sayCopyKept(k)
		return err
	}
	if !k.Saved() {
		if finished && !quick && ed.Kind == textedit.Unknown {
			return nil // the editor may have passed the file on; the next edit reports a copy saved later
		}
		if finished {
			return k.Remove()
		}
		a.UI.Warn("the editor %q ended and nothing is saved yet: the copy is kept in %s", line, k.Path)
		a.UI.Warn("once it is saved, apply it: %s", applyCommand(k))
		return nil
	}
	return a.applyCopy(c.Context(), k)
}

// applyEarlierCopy writes a copy that an earlier edit kept into the config, and returns
// the path of that config.
func (a Verbs) applyEarlierCopy(c *cobra.Command, from string) (string, error) {
	file, err := filepath.Abs(from)
	if err != nil {
		return "", ui.Usage("--from %q: %w", from, err)
	}
	dir, err := a.copiesDir()
	if err != nil {
		return "", err
	}
	k, err := config.OpenEditCopy(dir, file)
	if err != nil {
		return "", ui.Refused("%s cannot be applied to the config: %w", file, err).Hint(ui.CmdFor("to start a new edit", "aivm config edit"))
	}
	path, err := a.StorePath()
	switch {
	case err != nil:
		return "", err
	case a.Config != "" && path != k.Store:
		return "", ui.Refused("%s is a copy of %s, not of %s", file, k.Store, path).Hint(ui.Cmd(applyCommand(k)))
	case k.Open():
		return "", ui.Refused("%s is still open: the running aivm config edit applies it when its editor ends", file).Hint(ui.CmdFor("close the editor; to see which process has the file open", "fuser -v "+shellescape.Quote(file)))
	case !k.Saved():
		return "", ui.Refused("nothing was saved in %s: it is unchanged", file).
			Hint(ui.CmdFor("save it in the editor, then", applyCommand(k)), ui.CmdFor("or delete it", "rm -r "+shellescape.Quote(k.Dir())))
	}
	return k.Store, a.applyCopy(c.Context(), k)
}

// applyCopy writes a copy into the config and removes it. If that fails, the copy is
// kept and its path printed.
func (a Verbs) applyCopy(ctx context.Context, k *config.EditCopy) error {
	err := k.Take(ctx)
	if err == nil {
		return k.Remove()
	}
	edited, store := shellescape.Quote(k.Path), shellescape.Quote(k.Store)
	if errors.Is(err, config.ErrEditConflict) {
		return ui.Refused("the config %s was not written: %w; your version is kept in %s", k.Store, err, k.Path).
			Hint(ui.CmdFor("to compare them", "diff "+store+" "+edited), ui.CmdFor("to overwrite the config with yours", "cp "+edited+" "+store))
	}
	a.sayCopyKept(k)
	return err
}

// runEditor runs an editor on a file, on this terminal. If ctx ends, the editor gets
// SIGTERM, so that it can save a recovery file.
func (a Verbs) runEditor(ctx context.Context, ed textedit.Command, file string) error {
	// By convention $EDITOR is a shell command with arguments ("code --wait").
	shell := ed.Shell + ` "$1"`
	if first, _, _ := strings.Cut(ed.Shell, " "); !strings.Contains(first, "=") {
		shell = "exec " + shell
	}
	cmd := exec.CommandContext(ctx, "sh", "-c", shell, "sh", file)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 3 * time.Second
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.UI.In, a.UI.Out, a.UI.Err
	return cmd.Run()
}

// editorFailed returns the error for an editor that did not start, was killed or exited
// with an error. The copy is kept if it was saved or may still be open, else removed.
func (a Verbs) editorFailed(ctx context.Context, k *config.EditCopy, ed textedit.Command, line string, err error) error {
	var ee *exec.ExitError
	stopped := ctx.Err() != nil || errors.As(err, &ee) && (ee.ExitCode() < 0 || ee.ExitCode() > 128)
	// A window can still have the file open when the process that waited for it was
	// killed.
	if k.Saved() || stopped && ed.Kind != textedit.Terminal || hasSiblings(k.Path) {
		a.sayCopyKept(k)
	} else {
		_ = k.Remove()
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	e := ui.Failed("the editor %q: %w", line, err)
	if ed.Added != "" {
		e = ui.Failed("the editor %q, started as %q: %w", line, ed.Shell, err)
	}
	return e.Hint(ui.CmdFor("to use another editor", "aivm config edit --editor PROGRAM"))
}

// hasSiblings reports whether the directory of file holds other files, such as an
// editor's swap file with unsaved changes. It is true if the directory cannot be read.
func hasSiblings(file string) bool {
	es, err := os.ReadDir(filepath.Dir(file))
	return err != nil || len(es) > 1
}

// awaitEditor waits until the editor is finished with the file although its process has
// ended. While background processes have the file open, it waits for them; if there are
// none and the editor ended quickly, it asks the user on the terminal. finished is true
// if the file is certainly no longer being edited.
func (a Verbs) awaitEditor(ctx context.Context, ed textedit.Command, k *config.EditCopy, quick bool) (finished bool, err error) {
	switch {
	case ed.Kind == textedit.Terminal,
		ed.Kind != textedit.Detached && !quick,
		ed.Kind == textedit.Window && k.Saved():
		return true, nil
	}
	holders := textedit.Holders(k.Path)
	if len(holders) > 0 {
		return a.awaitHolders(ctx, k, holders)
	}
	if k.Saved() {
		return true, nil
	}
	if !a.UI.InTTY {
		return false, nil
	}
	_, err = a.UI.AskLine(ctx, "The editor returned immediately. Save the file in its window, then press Enter here.")
	if ui.ExitCode(err) == ui.ExitApproval {
		err = nil // end of input: the copy is kept
	}
	return false, err
}

// awaitHolders waits until no process has the file open, or the user presses Enter.
// finished is true in the first case.
func (a Verbs) awaitHolders(ctx context.Context, k *config.EditCopy, holders []textedit.Holder) (finished bool, err error) {
	names := make([]string, len(holders))
	for i, h := range holders {
		names[i] = h.String()
	}
	who := strings.Join(slices.Compact(names), ", ")
	ended, stop := context.WithCancel(ctx)
	defer stop()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		defer stop()
		for len(textedit.Holders(k.Path)) > 0 {
			select {
			case <-ended.Done():
				return
			case <-time.After(200 * time.Millisecond):
			}
		}
		finished = true
	}()
	if a.UI.InTTY {
		_, err = a.UI.AskLine(ended, "The editor is still running in the background ("+who+"). Save the file and close it, or press Enter here when it is saved.")
		if ended.Err() == nil {
			stop()
		}
	} else {
		a.UI.Say("waiting for the editor, which is still running in the background (%s) ...", who)
		<-ended.Done()
	}
	<-watched
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if finished || ui.ExitCode(err) == ui.ExitApproval {
		err = nil
	}
	return finished, err
}

// sayCopyKept prints where a copy that was not applied is, and the command to apply it.
func (a Verbs) sayCopyKept(k *config.EditCopy) {
	a.UI.Warn("the edited copy is kept in %s", k.Path)
	a.UI.Warn("to apply it: %s", applyCommand(k))
}

// applyCommand returns the command that writes a copy into the config.
func applyCommand(k *config.EditCopy) string {
	return "aivm config edit --from " + shellescape.Quote(k.Path)
}

// copiesDir returns the directory of the copies. It is below the state directory and not
// in /tmp, which sandboxed editors (snap, flatpak) do not see and a reboot empties.
func (a Verbs) copiesDir() (string, error) {
	e, err := a.Provision("config edit")
	if err != nil {
		return "", err
	}
	return filepath.Join(e.SSH.StateDir, "edit"), nil
}
