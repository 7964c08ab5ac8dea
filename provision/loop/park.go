package loop

import (
	"context"

	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/provision/target"
)

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

// Unpark returns it, with what the guest says now in f, if it is to this VM and still alive.
func (e Loop) Unpark(ctx context.Context, w *target.Target, f *Facts) (guest.Conn, bool) {
	c := e.Parked
	if c == nil {
		return nil, false
	}
	e.Parked = nil
	if e.ParkedVM == w.Name {
		if err := e.Probe(ctx, c, w, f); err == nil {
			return c, true
		}
	}
	_ = c.Close()
	return nil, false
}

// Close ends the connection to the guest, if there is one. f may be nil.
func (f *Facts) Close() {
	if f != nil && f.Conn != nil {
		_ = f.Conn.Close()
		f.Conn = nil
	}
}
