package root

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"syscall"

	"aivm.dev/aivm/internal/root/mount"
	"aivm.dev/aivm/internal/ui"
)

// causes are the errors that keep their identity across the wire: a caller finds
// them with errors.Is as if the action had run in its own process. The wire
// carries the words.
var causes = []struct {
	word string
	err  error
}{
	{"no-space", syscall.ENOSPC},
	{"quota", syscall.EDQUOT},
	{"access", syscall.EACCES},
	{"not-permitted", syscall.EPERM},
	{"read-only", syscall.EROFS},
	{"permission", fs.ErrPermission}, // also without an errno
	{"interrupted", context.Canceled},
}

// wireError converts an error to its form on the wire; remoteError converts back.
func wireError(err error) *errorLine {
	l := &errorLine{Kind: "failed", Message: err.Error(), InUse: errors.Is(err, mount.ErrInUse)}
	var e *ui.Error
	if errors.As(err, &e) {
		l.Kind, l.Hints = e.Kind, e.Hints
	}
	if l.Kind == "failed" && errors.Is(err, context.Canceled) {
		l.Kind = "interrupted"
	}
	for _, c := range causes {
		if errors.Is(err, c.err) {
			l.Causes = append(l.Causes, c.word)
		}
	}
	return l
}

// remoteError returns the error of a wire line, with the message and the hints it
// had in the helper. It ignores causes it does not know, as from another version
// of aivm.
func remoteError(l *errorLine) error {
	as := ui.Failed
	switch l.Kind {
	case "refused":
		as = ui.Refused
	case "approval":
		as = ui.NeedsApproval
	}
	err := as("%s", l.Message).Hint(l.Hints...)
	var is []error
	if l.InUse {
		is = append(is, mount.ErrInUse)
	}
	for _, c := range causes {
		if slices.Contains(l.Causes, c.word) {
			is = append(is, c.err)
		}
	}
	err.Err = errors.Join(is...)
	return err
}
