// Package ui owns everything aivm says: streams, progress, tables, JSON, and
// errors with their hints and exit statuses.
//
// It never decides anything and never touches the host. Invariants: results go
// to stdout, talk to stderr; whatever came from outside is printed with
// control characters made visible (Clean).
package ui

import (
	"errors"
	"fmt"
)

// Exit statuses of the program. "ssh" passes the remote status and uses
// ExitSSH for every failure of its own, as OpenSSH does.
const (
	ExitOK          = 0
	ExitUsage       = 1
	ExitRefused     = 2
	ExitApproval    = 3
	ExitInterrupted = 130
	ExitSSH         = 255
)

// Error is a failure a person can act on: one sentence, then hints.
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

// HintLines returns the hints as a person reads them.
func (e *Error) HintLines() []string {
	var out []string
	for _, h := range e.Hints {
		out = append(out, h.String())
	}
	return out
}

// Hint says what to do next: a command that works when pasted, with what it is
// for, or a remark alone.
type Hint struct {
	Text    string `json:"text,omitempty"`
	Command string `json:"command,omitempty"`
}

// Cmd is a hint that is a command.
func Cmd(command string) Hint { return Hint{Command: command} }

// CmdFor is a command and what it is for.
func CmdFor(text, command string) Hint { return Hint{Text: text, Command: command} }

// Remark is a hint without a command.
func Remark(text string) Hint { return Hint{Text: text} }

// String is the hint as a person reads it.
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
		cause = err // a format with more than one %w: errors.Unwrap gives none of them
	}
	return &Error{Exit: exit, Kind: kind, Message: err.Error(), Err: cause}
}

// Usage is a mistake on the command line.
func Usage(format string, args ...any) *Error { return newError(ExitUsage, "usage", format, args) }

// Refused is something aivm will not do as things are; nothing was changed.
func Refused(format string, args ...any) *Error {
	return newError(ExitRefused, "refused", format, args)
}

// Failed is something that was tried and went wrong.
func Failed(format string, args ...any) *Error { return newError(ExitRefused, "failed", format, args) }

// NeedsApproval is a plan that was declined, or could not be asked about.
func NeedsApproval(format string, args ...any) *Error {
	return newError(ExitApproval, "approval", format, args)
}
