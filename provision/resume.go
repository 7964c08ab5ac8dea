package provision

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"syscall"

	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/internal/virt"
)

// resume says how to go on after a run that stopped in the middle.
func (e *Env) resume(err error) error {
	if errors.Is(err, context.Canceled) {
		return &ui.Error{Exit: ui.ExitInterrupted, Kind: "interrupted", Message: "interrupted; nothing is lost", Hints: []string{"to go on: " + e.Rerun}, Err: err}
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
		ue.Hint("aivm host doctor")
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		dir := shellQuote(filepath.Dir(pe.Path))
		switch {
		case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
			ue.Hint("make room there: df -h " + dir)
		case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
			ue.Hint("ls -ld " + dir)
		}
	}
	ue.Hint("to go on where it stopped: " + e.Rerun)
	return err
}
