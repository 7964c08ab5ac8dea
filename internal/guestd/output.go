package guestd

import (
	"fmt"
	"io"
	"sync"

	"aivm.dev/aivm/internal/guestd/wire"
)

// chunk is the size of the memory in which short frames are gathered.
const chunk = 32 << 10

// An output is one output stream of a command: what came and is not written yet, at
// most its window.
type output struct {
	w        io.Writer
	window   uint32
	quantum  uint32 // credit is given in no smaller amounts
	finished chan struct{}
	failed   error // why a write failed; valid once finished

	mu     sync.Mutex
	change sync.Cond
	queue  [][]byte
	credit uint32 // how much the guest may send
	ended  bool
}

func newOutput(w io.Writer) *output {
	if w == nil {
		w = io.Discard
	}
	o := &output{w: w, finished: make(chan struct{})}
	o.change.L = &o.mu
	return o
}

// add takes data of the guest.
func (o *output) add(data []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended || uint32(len(data)) > o.credit {
		return fmt.Errorf("%w: more output than it has credit for", wire.ErrProtocol)
	}
	o.credit -= uint32(len(data))
	last := len(o.queue) - 1
	switch {
	case last >= 0 && cap(o.queue[last])-len(o.queue[last]) >= len(data):
		o.queue[last] = append(o.queue[last], data...)
	case len(data) < chunk:
		o.queue = append(o.queue, append(make([]byte, 0, chunk), data...))
	default:
		o.queue = append(o.queue, data)
	}
	o.change.Signal()
	return nil
}

func (o *output) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
	o.change.Signal()
}

// take waits for data, and returns none at the end.
func (o *output) take() [][]byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.queue) == 0 && !o.ended {
		o.change.Wait()
	}
	q := o.queue
	o.queue = nil
	return q
}

// grant gives the guest credit, unless there is no more to come.
func (o *output) grant(p *Process, t wire.Type, n uint32) {
	o.mu.Lock()
	ended := o.ended
	o.credit += n
	o.mu.Unlock()
	if !ended {
		p.s.post(t, p.id, wire.Number(n))
	}
}

// run writes the stream until it ends. When it cannot be written any more, the guest
// is told, so that the command gets SIGPIPE, and the rest is discarded.
func (o *output) run(p *Process, grant, closed wire.Type) {
	defer close(o.finished)
	var consumed uint32
	for {
		chunks := o.take()
		if chunks == nil {
			return
		}
		for _, data := range chunks {
			if o.failed == nil {
				if _, o.failed = o.w.Write(data); o.failed != nil {
					p.s.post(closed, p.id, nil)
				}
			}
			if consumed += uint32(len(data)); consumed >= o.quantum {
				o.grant(p, grant, consumed)
				consumed = 0
			}
		}
	}
}
