package folders

import (
	"context"
	"errors"
	"time"

	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/target"
)

// When the daemon that serves a VM's folders dies, QEMU does not answer the
// guest any more: every process there that touches a folder waits for good, and
// no signal ends it. So a probe that stops at the folders is given up.

const (
	// ShareProbe is the name of the piece of the probe that can hang.
	ShareProbe = "share"
	// daemonCheckAfter is how long a guest may take to say what it has before this
	// machine looks for the daemon; probeTimeout how long at all.
	daemonCheckAfter = 6 * time.Second
	probeTimeout     = 40 * time.Second
)

// ProbeWithFolders is a probe whose last piece may hang.
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
						// No cancellation: the person did not interrupt anything.
						cancel(ui.Failed("VM %s was switched off meanwhile, or the daemon that serves its folders (virtiofsd) has died", w.Name).
							Hint(ui.Cmd("aivm status --vm "+w.Name), ui.Cmd("aivm vm up "+w.Name)))
						return
					}
				}
			}
		}
	}()
	return c.Probe(ctx, ps)
}

// HungFolders says that the guest answered everything but the question about
// its folders; nil for any other end of a probe.
func (e Part) HungFolders(ctx context.Context, w *target.Target, err error) error {
	var stuck *guest.StuckError
	if !errors.As(err, &stuck) || stuck.At != ShareProbe || ctx.Err() != nil || errors.Is(err, guest.ErrLost) {
		return nil
	}
	why := "its folders do not answer"
	if hf, err := e.Shared(w.Name, nil); err == nil {
		if served, known := hf.Served(); known && !served {
			why = "the daemon that serves its folders (virtiofsd) has died, and whatever touches one of them in the VM waits for good"
		}
	}
	return ui.Failed("VM %s: %s", w.Name, why).
		Hint(ui.CmdFor("restart the VM, which starts the daemon too", "aivm vm restart "+w.Name),
			ui.CmdFor("if it does not power off, since its programs wait", "aivm vm restart "+w.Name+" --force"))
}
