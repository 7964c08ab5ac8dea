package provision

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
)

func shellQuote(s string) string { return shellescape.Quote(s) }

// SSHOptions are the flags of `ssh`.
type SSHOptions struct {
	FolderOptions
	Command []string // empty: a login shell
}

// Shell opens a shell in the folder inside the VM, or runs a command there. A
// remote status that is not 0 is a ui.Status; every other error is aivm's own.
func (e *Env) Shell(ctx context.Context, o SSHOptions) error {
	e.timing = ui.NewTiming()
	w, err := e.wantForShell(ctx, o.FolderOptions)
	if err != nil {
		return err
	}
	if done, err := e.oldShell(ctx, w, o.Command); done {
		return err
	}
	w.boot, w.guest = true, true
	f, err := e.converge(ctx, w)
	if errors.Is(err, errDry) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.close()
	e.inClone(ctx, w, f)
	e.sayExecuted(w)
	if err := e.checkAlias(ctx, w, f); err != nil {
		return err
	}
	if len(o.Command) > 0 {
		return e.remoteCommand(ctx, w, f, o.Command)
	}
	return e.remoteShell(ctx, w, f)
}

func (e *Env) wantForShell(ctx context.Context, o FolderOptions) (*want, error) {
	if !o.NoFolder {
		return e.wantFolder(ctx, o, true)
	}
	return e.wantVM(ctx, o.VM, "", false)
}

// remoteCommand runs argv in the folder over the connection that is already
// there: binary-clean, with the remote exit status.
func (e *Env) remoteCommand(ctx context.Context, w *want, f *facts, argv []string) error {
	run := argv
	if w.openAt != "" {
		run = append([]string{"sh", "-c", `cd -- "$1" && shift && exec "$@"`, "sh", w.openAt}, argv...)
	}
	code, err := f.conn.Run(ctx, guest.Cmd{Argv: run, Stdin: e.UI.In, Stdout: e.UI.Out, Stderr: e.UI.Err})
	if err != nil {
		return e.explainLost(ctx, w.name, fmt.Errorf("running %s in %s: %w", argv[0], w.name, err))
	}
	if code != 0 {
		return ui.Status(code)
	}
	return nil
}

// explainLost says of a connection that broke in the middle of something
// whether it went with the VM, and what to type then. A guest that is switched
// off closes nothing: it goes silent. Any other error is returned as it is.
func (e *Env) explainLost(ctx context.Context, vm string, err error) error {
	if !errors.Is(err, guest.ErrLost) {
		return err
	}
	if l, lerr := e.libvirt(ctx); lerr == nil {
		switch d, derr := l.Domain(ctx, vm); {
		case errors.Is(derr, virt.ErrNotFound):
			return ui.Failed("%w: the VM is gone", err).Hint("aivm list")
		case derr == nil && d.State != virt.Running:
			return ui.Failed("%w: the VM was switched off meanwhile", err).Hint("aivm vm up " + vm)
		}
	}
	return ui.Failed("%w", err).Hint("aivm status --vm " + vm)
}

// remoteShell hands the terminal to the ssh program, which does terminals
// best. It reads our own file only, so nothing of the user's configuration
// can get in between.
func (e *Env) remoteShell(ctx context.Context, w *want, f *facts) error {
	f.close()
	args := []string{"-F", e.SSH.ConfPath(w.name)}
	if e.UI.InTTY {
		args = append(args, "-t")
	}
	args = append(args, w.name)
	if w.openAt != "" {
		args = append(args, "cd -- "+shellQuote(w.openAt)+` && exec "${SHELL:-/bin/sh}" -l`)
	}
	resume := e.UI.Suspend()
	defer resume()
	cmd := exec.CommandContext(ctx, "ssh", args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = e.UI.In, e.UI.Out, e.UI.Err
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	err := cmd.Run()
	var ee *exec.ExitError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &ee) && ee.ExitCode() >= 0:
		return ui.Status(ee.ExitCode())
	}
	return fmt.Errorf("starting ssh: %w", err)
}
