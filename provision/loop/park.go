package loop

import (
	"context"

	"aivm.dev/aivm/internal/guest"
	"aivm.dev/aivm/provision/target"
)

// Park keeps the connection to the guest open for the next observation: a login costs more
// than all the rest of one.
func (e Loop) Park(w *target.Target, f *Facts) {
	if f.Conn == nil {
		return
	}
	if e.Parked != nil {
		_ = e.Parked.Close()
	}
	e.Parked, e.ParkedVM, f.Conn = f.Conn, w.Name, nil
}

// Unpark returns the parked connection and probes the guest again into f. It returns false,
// and closes the connection, if that is to another VM or dead.
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

// Close closes the connection to the guest, if there is one. f may be nil.
func (f *Facts) Close() {
	if f != nil && f.Conn != nil {
		_ = f.Conn.Close()
		f.Conn = nil
	}
}
