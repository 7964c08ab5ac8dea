package loop

import (
	"context"

	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/internal/plan"
	"aivm.dev/aivm/internal/ui"
	"aivm.dev/aivm/provision/target"
)

// Stop applies a plan that may stop a VM, alone on that VM. It is made under
// the lock: another run may have stopped the VM, or deleted it.
func (e Loop) Stop(ctx context.Context, vm string, again func(context.Context) (plan.Plan, error)) error {
	release, _, err := e.Lock(ctx, vm)
	if err != nil {
		return err
	}
	defer release()
	p, err := again(ctx)
	if err != nil {
		return err
	}
	if len(e.Approval.Open(p)) > 0 {
		return ui.Failed("VM %s was changed meanwhile, and what would be done now was not agreed to", vm).Hint(ui.Cmd(e.Rerun))
	}
	if err := e.Apply(ctx, p); err != nil {
		return err
	}
	return e.Stopped(ctx, vm)
}

// Park keeps the connection to the guest for the next look: a login costs more
// than everything else of it.
func (e Loop) Park(w *target.Target, f *Facts) {
	if f.Conn == nil {
		return
	}
	if e.Parked != nil {
		_ = e.Parked.Close()
	}
	e.Parked, e.ParkedVM, f.Conn = f.Conn, w.Name, nil
}

// Unpark returns it, if it is to this VM and still alive.
func (e Loop) Unpark(ctx context.Context, w *target.Target) (guest.Conn, Guest, bool) {
	c := e.Parked
	if c == nil {
		return nil, Guest{}, false
	}
	e.Parked = nil
	if e.ParkedVM == w.Name {
		if g, err := e.Probe(ctx, c, w); err == nil {
			return c, g, true
		}
	}
	_ = c.Close()
	return nil, Guest{}, false
}

func (f *Facts) Close() {
	if f != nil && f.Conn != nil {
		_ = f.Conn.Close()
		f.Conn = nil
	}
}
