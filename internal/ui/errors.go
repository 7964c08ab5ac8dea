// Package ui prints everything aivm prints: results, messages, progress, tables, JSON,
// questions, and errors with their hints and exit statuses.
//
// It makes no decisions and does not change the host. Invariants: results go to stdout,
// everything else to stderr; text from outside is printed with its control characters
// made visible (Clean).
package ui

import (
	"errors"
	"fmt"
)

// Exit statuses of the program. "aivm ssh" returns the remote command's status, and
// ExitSSH for all errors of its own, as OpenSSH does.
const (
	ExitOK          = 0
	ExitUsage       = 1
	ExitRefused     = 2
	ExitApproval    = 3
	ExitInterrupted = 130
	ExitSSH         = 255
)

// Error is an error with an exit status, a one-line message and hints on what to do.
type Error struct {
	Exit    int
	Kind    string // "usage", "refused", "approval", "failed", "interrupted"
	Message string // lower case, no full stop
	Hints   []Hint
	Err     error // the cause, already part of Message
}

func (e *Error) Error() string { return e.Message }
func (e *Error) Unwrap() error { return e.Err }

// Hint adds hints and returns e.
func (e *Error) Hint(h ...Hint) *Error { e.Hints = append(e.Hints, h...); return e }

// HintLines returns the hints as text, one line each.
func (e *Error) HintLines() []string {
	var out []string
	for _, h := range e.Hints {
		out = append(out, h.String())
	}
	return out
}

// Hint says what to do next: a command that works when pasted, optionally with its
// purpose, or a remark without a command.
type Hint struct {
	Text    string `json:"text,omitempty"`
	Command string `json:"command,omitempty"`
}

// Cmd returns a hint that is a command.
func Cmd(command string) Hint { return Hint{Command: command} }

// CmdFor returns a hint that is a command, with a text that says what it is for.
func CmdFor(text, command string) Hint { return Hint{Text: text, Command: command} }

// Remark returns a hint without a command.
func Remark(text string) Hint { return Hint{Text: text} }

// String returns the hint as one line: "TEXT: COMMAND", or the part that is set.
func (h Hint) String() string {
	switch {
	case h.Text == "":
		return h.Command
	case h.Command == "":
		return h.Text
	case h.Text[len(h.Text)-1] == '?':
		return h.Text + " " + h.Command
	}
	return h.Text + ": " + h.Command
}

func newError(exit int, kind, format string, args []any) *Error {
	err := fmt.Errorf(format, args...)
	cause := errors.Unwrap(err)
	if _, several := err.(interface{ Unwrap() []error }); several {
		cause = err // with more than one %w, errors.Unwrap returns nil
	}
	return &Error{Exit: exit, Kind: kind, Message: err.Error(), Err: cause}
}

// Usage returns an error for a mistake on the command line (exit status 1).
func Usage(format string, args ...any) *Error { return newError(ExitUsage, "usage", format, args) }

// Refused returns an error for something aivm will not do in the present state (exit
// status 2). Nothing was changed.
func Refused(format string, args ...any) *Error {
	return newError(ExitRefused, "refused", format, args)
}

// Failed returns an error for something that was tried and failed (exit status 2).
func Failed(format string, args ...any) *Error { return newError(ExitRefused, "failed", format, args) }

// NeedsApproval returns an error for a plan that was declined, or that could not be
// approved because there was no way to ask (exit status 3).
func NeedsApproval(format string, args ...any) *Error {
	return newError(ExitApproval, "approval", format, args)
}
