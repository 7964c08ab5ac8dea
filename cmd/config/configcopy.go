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

// atOnce is how soon an editor has to end without a change for it to be likely
// that it handed the file to a window.
const atOnce = 5 * time.Second

// editedNow opens a copy of the config in an editor and takes over what was made
// of it. A copy: other runs record things meanwhile, and an editor that writes
// the file itself would write over them, or they over it.
func (a Verbs) editedNow(c *cobra.Command, path, flag string) error {
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
		a.UI.Warn("an earlier edit was saved and not taken over: %s", k.Path)
		a.UI.Say("to take it over: %s; to drop it: rm -r %s", takeOver(k), shellescape.Quote(k.Dir()))
	}
	k, done, err := config.NewEditCopy(c.Context(), dir, path, a.Rerun())
	if err != nil {
		return err
	}
	defer done()
	ed := textedit.Parse(line)
	if ed.Kind == textedit.Window {
		a.UI.Say("the config is open in: %s; close the file there when it is saved", ed.Shell)
	}
	began := time.Now()
	if err := a.runEditor(c.Context(), ed, k.Path); err != nil {
		return a.editorFailed(c.Context(), k, ed, line, err)
	}
	quick := time.Since(began) < atOnce
	over, err := a.awaitEditor(c.Context(), ed, k, quick)
	if err != nil {
		a.sayKept(k)
		return err
	}
	if !k.Saved() {
		if over && !quick && ed.Kind == textedit.Unknown {
			return nil // it may have handed the file on; the next edit names a copy that was saved since
		}
		if over {
			return k.Remove()
		}
		a.UI.Warn("the editor %q returned and nothing is saved yet: the copy is kept in %s", line, k.Path)
		a.UI.Warn("when it is saved, take it over: %s", takeOver(k))
		return nil
	}
	return a.take(c.Context(), k)
}

// editedBefore takes over a copy of an earlier edit and returns the store it
// belongs to.
func (a Verbs) editedBefore(c *cobra.Command, from string) (string, error) {
	file, err := filepath.Abs(from)
	if err != nil {
		return "", ui.Usage("--from %q: %w", from, err)
	}
	k, err := config.OpenEditCopy(file)
	if err != nil {
		return "", ui.Refused("%s cannot be taken over: %w", file, err).Hint(ui.CmdFor("edit the config itself", "aivm config edit"))
	}
	path, err := a.StorePath()
	switch {
	case err != nil:
		return "", err
	case a.Config != "" && path != k.Store:
		return "", ui.Refused("%s is a copy of %s, not of %s", file, k.Store, path).Hint(ui.Cmd(takeOver(k)))
	case k.Open():
		return "", ui.Refused("%s is still open: the aivm config edit that waits for its editor takes it over", file).Hint(ui.CmdFor("close the editor, or see who has it", "fuser -v "+shellescape.Quote(file)))
	case !k.Saved():
		return "", ui.Refused("nothing is saved in %s: it is still what the editor was given", file).
			Hint(ui.CmdFor("save it in the editor, then", takeOver(k)), ui.CmdFor("or drop it", "rm -r "+shellescape.Quote(k.Dir())))
	}
	return k.Store, a.take(c.Context(), k)
}

// take writes a copy into the config and removes it, or says where it is kept.
func (a Verbs) take(ctx context.Context, k *config.EditCopy) error {
	err := k.Take(ctx)
	if err == nil {
		return k.Remove()
	}
	q, was := shellescape.Quote(k.Path), shellescape.Quote(k.Store)
	if errors.Is(err, config.ErrEditConflict) {
		return ui.Refused("the config %s was not written: %w; yours is kept in %s", k.Store, err, k.Path).
			Hint(ui.Remark("see what differs: diff "+was+" "+q), ui.CmdFor("write yours over it", "cp "+q+" "+was))
	}
	a.sayKept(k)
	return err
}

// runEditor runs an editor on a file, on this terminal. A run that is stopped
// asks the editor to end, so that it can keep what is not saved.
func (a Verbs) runEditor(ctx context.Context, ed textedit.Command, file string) error {
	// $EDITOR is a piece of shell by custom ("code --wait").
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

// editorFailed is the error for an editor that could not be started, was
// stopped, or says that the edit is not wanted. What was saved is kept.
func (a Verbs) editorFailed(ctx context.Context, k *config.EditCopy, ed textedit.Command, line string, err error) error {
	var ee *exec.ExitError
	stopped := ctx.Err() != nil || errors.As(err, &ee) && (ee.ExitCode() < 0 || ee.ExitCode() > 128)
	// A window can still have the file when the program that waited for it is
	// stopped.
	if k.Saved() || stopped && ed.Kind != textedit.Terminal || othersBeside(k.Path) {
		a.sayKept(k)
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
	return e.Hint(ui.CmdFor("choose another", "aivm config edit --editor PROGRAM"))
}

// othersBeside reports whether the editor put something beside a file, such as
// a swap file with what was not saved.
func othersBeside(file string) bool {
	es, err := os.ReadDir(filepath.Dir(file))
	return err != nil || len(es) > 1
}

// awaitEditor waits until an editor that ended is done with the file too: while
// something of it goes on in the background, and, on a terminal, until a person
// says so where nothing can be seen. over says that it is done for certain.
func (a Verbs) awaitEditor(ctx context.Context, ed textedit.Command, k *config.EditCopy, quick bool) (over bool, err error) {
	switch {
	case ed.Kind == textedit.Terminal,
		ed.Kind != textedit.Detached && !quick,
		ed.Kind == textedit.Window && k.Saved():
		return true, nil
	}
	held := textedit.Holders(k.Path)
	if len(held) > 0 {
		return a.awaitHolders(ctx, k, held)
	}
	if k.Saved() {
		return true, nil
	}
	if !a.UI.InTTY {
		return false, nil
	}
	_, err = a.UI.AskLine(ctx, "The editor returned at once. Save the file in its window, then press Enter here.")
	if ui.ExitCode(err) == ui.ExitApproval {
		err = nil // the end of input: the copy is kept
	}
	return false, err
}

// awaitHolders waits until the processes that have the file ended, or a person
// presses Enter.
func (a Verbs) awaitHolders(ctx context.Context, k *config.EditCopy, held []textedit.Holder) (over bool, err error) {
	names := make([]string, len(held))
	for i, h := range held {
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
		over = true
	}()
	if a.UI.InTTY {
		_, err = a.UI.AskLine(ended, "The editor goes on in the background ("+who+"). Save the file and close it, or press Enter here when it is saved.")
		if ended.Err() == nil {
			stop()
		}
	} else {
		a.UI.Say("waiting for the editor, which goes on in the background (%s) ...", who)
		<-ended.Done()
	}
	<-watched
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if over || ui.ExitCode(err) == ui.ExitApproval {
		err = nil
	}
	return over, err
}

// sayKept says where a copy is that was not taken over, and what takes it over.
func (a Verbs) sayKept(k *config.EditCopy) {
	a.UI.Warn("the copy that was edited is kept in %s", k.Path)
	a.UI.Warn("to take it over: %s", takeOver(k))
}

func takeOver(k *config.EditCopy) string {
	return "aivm config edit --from " + shellescape.Quote(k.Path)
}

// copiesDir is where copies lie: below the state directory and not in /tmp,
// which the sandboxes of editors hide and a restart empties.
func (a Verbs) copiesDir() (string, error) {
	e, err := a.Provision("config edit")
	if err != nil {
		return "", err
	}
	return filepath.Join(e.SSH.StateDir, "edit"), nil
}
