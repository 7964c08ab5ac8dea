package guest

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/crypto/ssh"
)

// StartupError reports that the guest user's login shell runs no commands. sshd passes every command
// to that shell, which reads a start-up file first: ~/.bashrc in bash, ~/.zshenv in zsh, config.fish in
// fish, ~/.tcshrc in tcsh. If the file exits, or executes another program, the command does not run,
// and the status that sshd reports says nothing about it.
type StartupError struct {
	Exit   int    // the status of the shell; -1: none
	Stderr string // the end of its stderr, not cleaned
	Err    error  // why its output was not read to its end, nil if it was
}

func (e *StartupError) Error() string {
	how := fmt.Sprintf("status %d", e.Exit)
	if e.Err != nil {
		how = e.Err.Error()
	}
	return "the login shell of the guest runs no commands (" + how + "): its start-up file, ~/.bashrc if the shell is bash, ends it or executes another program" + lastWords(e.Stderr)
}

// Unwrap returns the cause.
func (e *StartupError) Unwrap() error { return e.Err }

// BypassesStartup reports whether c runs its commands by a shell that skips ~/.bashrc, because that file
// prevented the first command.
func BypassesStartup(c Conn) bool {
	b, ok := c.(interface{ BypassesStartup() bool })
	return ok && b.BypassesStartup()
}

// BypassesStartup is the method that the function of the same name calls.
func (c *conn) BypassesStartup() bool { return c.bypass.Load() }

// startupEnv is what a session sends to skip ~/.bashrc. bash reads the file, when sshd started it with a
// command, only as the outermost shell, by SHLVL. sshd accepts the variable if AcceptEnv names it, as in
// VMs that this version created (cloudinit); otherwise it ignores the request.
var startupEnv = ssh.Marshal(struct{ Name, Value string }{BypassEnv, BypassValue})

// The variable that makes bash skip ~/.bashrc.
const (
	BypassEnv   = "SHLVL"
	BypassValue = "1"
)

// probe runs the script of a probe. If the login shell does not execute it, and bash can be told to
// skip its start-up file, it runs the script again like that, and so does every later command of the
// connection.
func (c *conn) probe(ctx context.Context, marker string, ps []Probe) (*frames, string, error) {
	f, stderr, exit, err := c.probeOnce(ctx, marker, ps)
	if f.started || !unexecuted(ctx, err) {
		return f, stderr, err
	}
	startup := &StartupError{Exit: exit, Stderr: stderr, Err: err}
	if c.bypass.Load() {
		return f, stderr, startup
	}
	c.bypass.Store(true)
	f, stderr, _, err = c.probeOnce(ctx, marker, ps)
	if f.started {
		return f, stderr, err
	}
	c.bypass.Store(false)
	if !unexecuted(ctx, err) {
		return f, stderr, err
	}
	return f, stderr, startup
}

// unexecuted reports whether a probe that ended with err, without its first line, got an answer of a
// shell: not if the connection broke, the server refused the session, or the caller gave up.
func unexecuted(ctx context.Context, err error) bool {
	var refused *ssh.OpenChannelError
	return ctx.Err() == nil && !errors.Is(err, ErrLost) && !errors.As(err, &refused)
}
