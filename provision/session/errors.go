package session

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"syscall"

	"al.essio.dev/pkg/shellescape"

	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
)

// WithRerunHint adds to err, the error of a run that stopped in the middle, the command to
// continue with. An error with hints keeps its own; a canceled context becomes a ui.Error
// "interrupted".
func (e *Session) WithRerunHint(err error) error {
	if errors.Is(err, context.Canceled) {
		return &ui.Error{Exit: ui.ExitInterrupted, Kind: "interrupted", Message: "interrupted; nothing is lost", Hints: []ui.Hint{ui.CmdFor("to continue", e.Rerun)}, Err: err}
	}
	var ue *ui.Error
	switch {
	case !errors.As(err, &ue):
		ue = ui.Failed("%w", err)
		err = ue
	case errors.Is(err, guest.ErrLost): // keep its hints and add more
	case len(ue.Hints) > 0:
		return err
	}
	if errors.Is(err, virt.ErrNoDaemon) {
		ue.Hint(ui.Cmd("aivm host doctor"))
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		dir := shellescape.Quote(filepath.Dir(pe.Path))
		switch {
		case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
			ue.Hint(ui.CmdFor("free some space there", "df -h "+dir))
		case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
			ue.Hint(ui.Cmd("ls -ld " + dir))
		}
	}
	ue.Hint(ui.CmdFor("to continue where it stopped", e.Rerun))
	return err
}

// ExplainLost asks libvirt about a VM whose SSH connection was lost, and adds to err whether
// the VM was deleted or switched off, with a hint. (A guest that is switched off does not
// close the connection: it goes silent.) Any other error is returned unchanged.
func (e *Session) ExplainLost(ctx context.Context, vm string, err error) error {
	if !errors.Is(err, guest.ErrLost) {
		return err
	}
	if l, lerr := e.Libvirt(ctx); lerr == nil {
		switch d, derr := l.Domain(ctx, vm); {
		case errors.Is(derr, virt.ErrNotFound):
			return ui.Failed("%w: the VM no longer exists", err).Hint(ui.Cmd("aivm list"))
		case derr == nil && d.State != virt.Running:
			return ui.Failed("%w: the VM was switched off while aivm was running", err).Hint(ui.Cmd("aivm vm up " + vm))
		}
	}
	return ui.Failed("%w", err).Hint(ui.Cmd("aivm status --vm " + vm))
}

// StateErr wraps an error of writing a VM's state directory, with hints; nil stays nil.
func StateErr(dir string, err error) error {
	if err == nil {
		return nil
	}
	return ui.Failed("writing the state of the VM: %w", err).Hint(ui.Cmd("ls -ld "+shellescape.Quote(dir)), ui.Cmd("df -h "+shellescape.Quote(dir)))
}
