// Package capture keeps a bounded part of the output of a program or a guest.
package capture

import (
	"bytes"
	"strings"
	"sync"
)

// Head keeps the first Limit bytes that are written to it and discards the rest.
// A write never fails, so it never stops the writing program. Only one goroutine
// at a time may use it.
type Head struct {
	Limit int
	buf   bytes.Buffer
	over  bool
}

// Write implements io.Writer.
func (h *Head) Write(p []byte) (int, error) {
	room := max(h.Limit-h.buf.Len(), 0)
	h.over = h.over || len(p) > room
	h.buf.Write(p[:min(len(p), room)])
	return len(p), nil
}

// Bytes returns what was kept; it is valid until the next write.
func (h *Head) Bytes() []byte { return h.buf.Bytes() }

// String returns what was kept.
func (h *Head) String() string { return h.buf.String() }

// Over reports whether more than Limit bytes were written.
func (h *Head) Over() bool { return h.over }

// Tail keeps the last Limit bytes that are written to it. Several goroutines may
// use it.
type Tail struct {
	Limit int
	mu    sync.Mutex
	buf   bytes.Buffer
}

// Write implements io.Writer.
func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf.Write(p[max(0, len(p)-t.Limit):])
	t.buf.Next(max(0, t.buf.Len()-t.Limit))
	return len(p), nil
}

// String returns what was kept.
func (t *Tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}

// LastLines returns the last n non-empty lines of a text, trimmed and joined by
// sep.
func LastLines(text string, n int, sep string) string {
	var keep []string
	for l := range strings.Lines(text) {
		if l = strings.TrimSpace(l); l != "" {
			keep = append(keep, l)
		}
	}
	return strings.Join(keep[max(0, len(keep)-n):], sep)
}
