package provision

import (
	"context"
	"errors"
	"strings"
	"time"

	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/ui"
)

// When the daemon that serves a VM's folders dies, QEMU does not answer the
// guest any more: every process there that touches a folder waits for good, and
// no signal ends it. So a probe that stops at the folders is given up.

const (
	shareProbe = "share"
	// lookAfter is how long a guest may take to say what it has before this
	// machine looks for the daemon; hangAfter how long at all.
	lookAfter = 6 * time.Second
	hangAfter = 40 * time.Second
)

// asks reports whether the guest can be asked about its folders.
func (f *facts) asks() bool { return f.conn != nil && f.guest.shareErr == nil }

// askWithFolders is a probe whose last piece may hang.
func (e *Env) askWithFolders(ctx context.Context, c guest.Conn, w *want, ps []guest.Probe) (map[string][]byte, error) {
	ctx, end := context.WithTimeout(ctx, hangAfter)
	defer end()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		t := time.NewTicker(lookAfter)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				if hf, err := e.shared(w.name, nil); err == nil {
					if served, known := hf.Served(); known && !served {
						// No cancellation: the person did not interrupt anything.
						cancel(ui.Failed("VM %s was switched off meanwhile, or the daemon that serves its folders (virtiofsd) has died", w.name).
							Hint("aivm status --vm "+w.name, "aivm vm up "+w.name))
						return
					}
				}
			}
		}
	}()
	return c.Probe(ctx, ps)
}

// foldersHang says that the guest answered everything but the question about
// its folders; nil for any other end of a probe.
func (e *Env) foldersHang(ctx context.Context, w *want, err error) error {
	var stuck *guest.StuckError
	if !errors.As(err, &stuck) || stuck.At != shareProbe || ctx.Err() != nil || errors.Is(err, guest.ErrLost) {
		return nil
	}
	why := "its folders do not answer"
	if hf, err := e.shared(w.name, nil); err == nil {
		if served, known := hf.Served(); known && !served {
			why = "the daemon that serves its folders (virtiofsd) has died, and whatever touches one of them in the VM waits for good"
		}
	}
	return ui.Failed("VM %s: %s", w.name, why).
		Hint("restart the VM, which starts the daemon too: aivm vm restart "+w.name,
			"if it does not power off, since its programs wait: aivm vm restart "+w.name+" --force")
}

// hintsOf are the commands a person is told with an error, without what is said
// around them.
func hintsOf(err error) []string {
	var ue *ui.Error
	if !errors.As(err, &ue) {
		return nil
	}
	var out []string
	for _, h := range ue.Hints {
		if i := strings.Index(h, "aivm "); i >= 0 {
			out = append(out, h[i:])
		}
	}
	return out
}
