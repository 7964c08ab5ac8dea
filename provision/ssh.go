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
	"aivm.dev/aivm/provision/clones"
	"aivm.dev/aivm/provision/folders"
	"aivm.dev/aivm/provision/legacy03"
	"aivm.dev/aivm/provision/loop"
	"aivm.dev/aivm/provision/machine"
	"aivm.dev/aivm/provision/target"
)

// SSHOptions are the flags of `ssh`.
type SSHOptions struct {
	target.FolderOptions
	Command []string // empty: a login shell
}

// Shell opens a shell in the folder in the VM, or runs a command there. A remote exit status other
// than 0 is a ui.Status; every other error is aivm's own.
func (e *Env) Shell(ctx context.Context, o SSHOptions) error {
	e.Timing = ui.NewTiming()
	w, err := e.shellTarget(ctx, o.FolderOptions)
	if err != nil {
		return err
	}
	if done, err := legacy03.For(e.Loop).Shell(ctx, w, o.Command); done {
		return err
	}
	w, f, err := e.Converge(ctx, w.Started())
	if err != nil {
		return err
	}
	defer f.Close()
	w = clones.For(e.Loop).InClone(ctx, w, f)
	folders.For(e.Loop).ReportHostExecuted(w, f)
	if err := machine.For(e.Loop).CheckAlias(ctx, w, f); err != nil {
		return err
	}
	if len(o.Command) > 0 {
		return e.remoteCommand(ctx, w, f, o.Command)
	}
	return e.remoteShell(ctx, w, f)
}

func (e *Env) shellTarget(ctx context.Context, o target.FolderOptions) (*target.Target, error) {
	if !o.NoFolder {
		return e.folderTarget(ctx, o, true)
	}
	return e.VM(ctx, o.VM, "", false)
}

// remoteCommand runs argv in the folder over the existing connection. It passes stdin, stdout and
// stderr unchanged, and returns the remote exit status as a ui.Status.
func (e *Env) remoteCommand(ctx context.Context, w *target.Target, f *loop.Facts, argv []string) error {
	run := argv
	if w.OpenAt != "" {
		run = append([]string{"sh", "-c", `cd -- "$1" && shift && exec "$@"`, "sh", w.OpenAt}, argv...)
	}
	code, err := f.Conn.Run(ctx, guest.Cmd{Argv: run, Stdin: e.Stdin, Stdout: e.Stdout, Stderr: e.Stderr})
	if err != nil {
		return e.ExplainLost(ctx, w.Name, fmt.Errorf("running %s in %s: %w", argv[0], w.Name, err))
	}
	if code != 0 {
		return ui.Status(code)
	}
	return nil
}

// remoteShell runs the ssh program on the terminal. ssh reads only the configuration file that aivm
// wrote, so that the user's configuration cannot interfere.
func (e *Env) remoteShell(ctx context.Context, w *target.Target, f *loop.Facts) error {
	f.Close()
	args := []string{"-F", e.SSH.ConfPath(w.Name)}
	if e.InTTY {
		args = append(args, "-t")
	}
	args = append(args, w.Name)
	if w.OpenAt != "" {
		args = append(args, "cd -- "+shellescape.Quote(w.OpenAt)+` && exec "${SHELL:-/bin/sh}" -l`)
	}
	resume := e.UI.Suspend()
	defer resume()
	cmd := exec.CommandContext(ctx, "ssh", args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = e.Stdin, e.Stdout, e.Stderr
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
