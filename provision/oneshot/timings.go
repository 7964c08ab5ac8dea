package oneshot

import (
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"aivm.dev/aivm/internal/template"
)

// Timings records how long the steps of a run took. Steps may overlap.
type Timings struct {
	began time.Time
	mu    sync.Mutex
	steps []step
}

type step struct {
	name     string
	from, to time.Duration
}

// NewTimings starts the clock.
func NewTimings() *Timings { return &Timings{began: time.Now()} }

// Step starts a step and returns the function that ends it.
func (t *Timings) Step(name string) (done func()) {
	from := time.Since(t.began)
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.steps = append(t.steps, step{name, from, time.Since(t.began)})
	}
}

// Add adds the parts of a start that just ended.
func (t *Timings) Add(parts []template.Step) {
	t.mu.Lock()
	defer t.mu.Unlock()
	to := time.Since(t.began)
	for _, p := range slices.Backward(parts) {
		t.steps = append(t.steps, step{"  QEMU: " + p.Name, to - p.Took, to})
		to -= p.Took
	}
}

// Print writes a line for each step, in the order of their starts: when it started, how long it took.
func (t *Timings) Print(w io.Writer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	slices.SortStableFunc(t.steps, func(a, b step) int { return int(a.from - b.from) })
	for _, s := range t.steps {
		fmt.Fprintf(w, "%8.1f ms  +%8.1f ms  %s\n", ms(s.from), ms(s.to-s.from), s.name)
	}
	fmt.Fprintf(w, "%8.1f ms  in all\n", ms(time.Since(t.began)))
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
