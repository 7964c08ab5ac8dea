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

// Resume says how to go on after a run that stopped in the middle.
func (e *Session) WithRerunHint(err error) error {
	if errors.Is(err, context.Canceled) {
		return &ui.Error{Exit: ui.ExitInterrupted, Kind: "interrupted", Message: "interrupted; nothing is lost", Hints: []ui.Hint{ui.CmdFor("to go on", e.Rerun)}, Err: err}
	}
	var ue *ui.Error
	switch {
	case !errors.As(err, &ue):
		ue = ui.Failed("%w", err)
		err = ue
	case errors.Is(err, guest.ErrLost): // what is hinted at comes first
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
			ue.Hint(ui.Cmd("make room there: df -h " + dir))
		case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
			ue.Hint(ui.Cmd("ls -ld " + dir))
		}
	}
	ue.Hint(ui.CmdFor("to go on where it stopped", e.Rerun))
	return err
}

// ExplainLost says of a connection that broke in the middle of something
// whether it went with the VM, and what to type then. A guest that is switched
// off closes nothing: it goes silent. Any other error is returned as it is.
func (e *Session) ExplainLost(ctx context.Context, vm string, err error) error {
	if !errors.Is(err, guest.ErrLost) {
		return err
	}
	if l, lerr := e.Libvirt(ctx); lerr == nil {
		switch d, derr := l.Domain(ctx, vm); {
		case errors.Is(derr, virt.ErrNotFound):
			return ui.Failed("%w: the VM is gone", err).Hint(ui.Cmd("aivm list"))
		case derr == nil && d.State != virt.Running:
			return ui.Failed("%w: the VM was switched off meanwhile", err).Hint(ui.Cmd("aivm vm up " + vm))
		}
	}
	return ui.Failed("%w", err).Hint(ui.Cmd("aivm status --vm " + vm))
}

// StateErr explains an error of writing a VM's state directory; nil stays nil.
func StateErr(dir string, err error) error {
	if err == nil {
		return nil
	}
	return ui.Failed("writing the state of the VM: %w", err).Hint(ui.Cmd("ls -ld "+shellescape.Quote(dir)), ui.Cmd("df -h "+shellescape.Quote(dir)))
}
