package provision

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"

	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/terminfo"
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
	TTY     int      // how often -t was given
	NoTTY   bool     // -T
}

// terminal returns ssh's options for the terminal in the guest, as OpenSSH has them, and whether
// there is to be one: a shell gets one if stdin is a terminal, a command if stdout is one too.
func (o SSHOptions) terminal(inTTY, outTTY bool) (flags []string, wanted bool) {
	switch {
	case o.NoTTY:
		return []string{"-T"}, false
	case o.TTY > 0:
		return slices.Repeat([]string{"-t"}, min(o.TTY, 2)), true
	case inTTY && (outTTY || len(o.Command) == 0):
		return []string{"-t"}, true
	}
	return nil, false
}

// Shell opens a shell in the folder in the VM, or runs a command there. A remote exit status other
// than 0 is a ui.Status; every other error is aivm's own.
func (e *Env) Shell(ctx context.Context, o SSHOptions) error {
	e.Timing = ui.NewTiming()
	flags, terminal := o.terminal(e.InTTY, e.OutTTY)
	w, err := e.shellTarget(ctx, o.FolderOptions)
	if err != nil {
		return err
	}
	if done, err := legacy03.For(e.Loop).Shell(ctx, w, o.Command, flags); done {
		return err
	}
	w, f, err := e.Converge(ctx, w.Started())
	if err != nil {
		return err
	}
	defer f.Close()
	w = clones.For(e.Loop).InClone(ctx, w, f)
	folders.For(e.Loop).ReportHostExecuted(w, f)
	if err := machine.For(e.Loop).CheckAlias(ctx, w, f, nil); err != nil {
		return err
	}
	if len(o.Command) > 0 && !terminal {
		return e.remoteCommand(ctx, w, f, o.Command)
	}
	return e.remoteTerminal(ctx, w, f, o.Command, flags)
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
	code, err := f.Conn.Run(ctx, guest.Cmd{Argv: inFolder(w, argv), Stdin: e.Stdin, Stdout: e.Stdout, Stderr: e.Stderr})
	if err != nil {
		return e.ExplainLost(ctx, w.Name, fmt.Errorf("running %s in %s: %w", argv[0], w.Name, err))
	}
	if code != 0 {
		return ui.Status(code)
	}
	return nil
}

// inFolder returns argv as a command that runs in the folder.
func inFolder(w *target.Target, argv []string) []string {
	if w.OpenAt == "" {
		return argv
	}
	return append([]string{"sh", "-c", `cd -- "$1" && shift && exec "$@"`, "sh", w.OpenAt}, argv...)
}

// remoteShell opens a login shell in the folder by the ssh program, on a terminal if stdin is one.
func (e *Env) remoteShell(ctx context.Context, w *target.Target, f *loop.Facts) error {
	flags, _ := SSHOptions{}.terminal(e.InTTY, e.OutTTY)
	return e.remoteTerminal(ctx, w, f, nil, flags)
}

// remoteTerminal runs argv, or a login shell, in the folder by the ssh program, which connects the
// terminals on both sides: raw mode, size, and keys like Ctrl-C. flags are ssh's options for it. ssh
// reads only the configuration file that aivm wrote, so that the user's configuration cannot interfere.
func (e *Env) remoteTerminal(ctx context.Context, w *target.Target, f *loop.Facts, argv, flags []string) error {
	args := append([]string{"-F", e.SSH.ConfPath(w.Name)}, flags...)
	switch {
	case len(argv) > 0:
		// Without it, ssh prints "Connection to ... closed." after every command on a terminal.
		args = append(args, "-o", "LogLevel=ERROR")
		argv = inFolder(w, argv)
	case w.OpenAt != "":
		argv = []string{"sh", "-c", `cd -- "$1" && exec "${SHELL:-/bin/sh}" -l`, "sh", w.OpenAt}
	}
	if guest.BypassesStartup(f.Conn) {
		args = append(args, "-o", "SetEnv="+guest.BypassEnv+"="+guest.BypassValue)
	}
	args = append(args, w.Name)
	if len(argv) > 0 {
		line, err := guest.CommandLine(argv)
		if err != nil {
			return err
		}
		args = append(args, line)
	}
	cmd := exec.CommandContext(ctx, "ssh", args...)
	if slices.Contains(flags, "-t") {
		cmd.Env = append(os.Environ(), "TERM="+e.guestTerm(ctx, w, f.Conn))
	}
	f.Close()
	resume := e.UI.Suspend()
	defer resume()
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

// guestTerm returns the value of TERM for the guest: this terminal's, if the guest knows it.
func (e *Env) guestTerm(ctx context.Context, w *target.Target, c guest.Conn) string {
	term := e.Getenv("TERM")
	name, same := terminfo.Name(ctx, term, func(ctx context.Context, argv []string, stdin io.Reader) (int, error) {
		return c.Run(ctx, guest.Cmd{Argv: argv, Stdin: stdin})
	})
	if !same {
		e.UI.Say("VM %s does not know the terminal %s, and it could not be installed there: programs get TERM=%s", w.Name, ui.CleanTo(term, 64), name)
	}
	return name
}
