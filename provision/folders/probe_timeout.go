package folders

import (
	"context"
	"errors"
	"time"

	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/target"
)

// When the virtiofsd of a VM dies, QEMU does not answer the guest's requests any
// more: every process in the guest that accesses a shared folder waits
// indefinitely, and no signal ends it. So a probe that hangs at the folders is
// abandoned.

const (
	// ShareProbe is the name of the part of the probe that can hang.
	ShareProbe = "share"
	// daemonCheckAfter is how long the probe may run before aivm checks whether
	// virtiofsd is alive, and the interval of that check; probeTimeout is how
	// long it may run in all.
	daemonCheckAfter = 6 * time.Second
	probeTimeout     = 40 * time.Second
)

// ProbeWithFolders runs a probe whose last part, the one about folders, may hang.
func (e Part) ProbeWithFolders(ctx context.Context, c guest.Conn, w *target.Target, ps []guest.Probe) (map[string][]byte, error) {
	ctx, end := context.WithTimeout(ctx, probeTimeout)
	defer end()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		t := time.NewTicker(daemonCheckAfter)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				if hf, err := e.Shared(w.Name, nil); err == nil {
					if served, known := hf.Served(); known && !served {
						// The cause is not context.Canceled: the user did not interrupt the run.
						cancel(ui.Failed("VM %s was switched off, or the daemon that serves its folders (virtiofsd) has died", w.Name).
							Hint(ui.Cmd("aivm status --vm "+w.Name), ui.Cmd("aivm vm up "+w.Name)))
						return
					}
				}
			}
		}
	}()
	return c.Probe(ctx, ps)
}

// HungFolders turns the error of a probe into one about hung folders, if the guest
// answered everything but the part about its folders. It returns nil for any other
// error.
func (e Part) HungFolders(ctx context.Context, w *target.Target, err error) error {
	var stuck *guest.StuckError
	if !errors.As(err, &stuck) || stuck.At != ShareProbe || ctx.Err() != nil || errors.Is(err, guest.ErrLost) {
		return nil
	}
	why := "reading its shared folders hangs"
	if hf, err := e.Shared(w.Name, nil); err == nil {
		if served, known := hf.Served(); known && !served {
			why = "the daemon that serves its folders (virtiofsd) has died; every program in the VM that accesses one of them hangs"
		}
	}
	return ui.Failed("VM %s: %s", w.Name, why).
		Hint(ui.CmdFor("restart the VM, which also starts the daemon", "aivm vm restart "+w.Name),
			ui.CmdFor("if it does not power off because its programs hang", "aivm vm restart "+w.Name+" --force"))
}
