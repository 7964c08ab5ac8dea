package ui

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/rivo/uniseg"
	"golang.org/x/term"
)

const (
	liveEvery  = 200 * time.Millisecond
	plainEvery = 10 * time.Second
	barWidth   = 20
)

// Task shows the progress of something the user waits for. All methods may be called
// from any goroutine; after one of those that end it they do nothing.
type Task interface {
	// Detail sets the text that says what is currently being done.
	Detail(format string, args ...any)
	// Bytes reports that done of total bytes are transferred; total <= 0 means unknown.
	Bytes(done, total int64)
	// Fraction reports progress from 0 to 1.
	Fraction(f float64)
	Done()
	Fail()
	// Refuse ends the task as one that was refused, Skip as one that turned out to be unnecessary.
	Refuse()
	Skip()
}

// Task starts to show progress. On a terminal it keeps one line up to date (label,
// detail, elapsed time), even while no progress is reported; otherwise it prints plain
// lines: at the start, every 10 seconds or 10 %, and at the end.
//
// No progress bar library is used: those tried do not fit label and detail to the
// terminal's width, do not share the screen with other output, and redraw only when the
// count changes.
func (s *Streams) Task(label string) Task {
	if s.silent() {
		return noTask{}
	}
	t := &task{s: s, label: Clean(label), began: time.Now(), fraction: -1, stopCh: make(chan struct{})}
	t.lastPlain = t.began
	t.live = s.ErrTTY && !s.Dumb
	s.mu.Lock()
	if t.live {
		s.tasks = append(s.tasks, t)
		s.draw()
	} else {
		_, _ = io.WriteString(sink(s.Err), t.label+" ...\n")
	}
	s.mu.Unlock()
	t.stopped.Go(t.refresh)
	return t
}

type noTask struct{}

func (noTask) Detail(string, ...any) {}
func (noTask) Bytes(int64, int64)    {}
func (noTask) Fraction(float64)      {}
func (noTask) Done()                 {}
func (noTask) Fail()                 {}
func (noTask) Refuse()               {}
func (noTask) Skip()                 {}

// task implements Task. s.mu guards the fields that change.
type task struct {
	s       *Streams
	label   string
	began   time.Time
	live    bool
	stopCh  chan struct{} // closed at the end
	stopped sync.WaitGroup

	ended       bool
	detail      string
	done, total int64
	fraction    float64 // -1: unknown
	firstBytes  int64   // bytes already present when a resumed transfer began
	firstAt     time.Time
	lastPlain   time.Time
	lastTenth   int
}

func (t *task) Detail(format string, args ...any) {
	text := Clean(fmt.Sprintf(format, args...))
	t.update(func() { t.detail = text })
}

func (t *task) Bytes(done, total int64) {
	t.update(func() {
		if t.firstAt.IsZero() {
			t.firstAt, t.firstBytes = time.Now(), done
		}
		t.done, t.total = max(done, 0), max(total, 0)
		t.fraction = -1
		if t.total > 0 {
			t.fraction = bound(float64(t.done) / float64(t.total))
		}
	})
}

func (t *task) Fraction(f float64) { t.update(func() { t.fraction = bound(f) }) }
func (t *task) Done()              { t.end("done") }
func (t *task) Fail()              { t.end("failed") }
func (t *task) Refuse()            { t.end("refused") }
func (t *task) Skip()              { t.end("nothing to do") }

// bound limits f to the range 0 to 1. NaN becomes 0, since all comparisons with it are
// false.
func bound(f float64) float64 {
	switch {
	case f >= 1:
		return 1
	case f > 0:
		return f
	}
	return 0
}

func (t *task) update(change func()) {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	if t.ended {
		return
	}
	change()
	// A live line is drawn by the ticker only, so thousands of reports per second cost
	// almost nothing.
	if !t.live && t.fraction >= 0 && int(t.fraction*10) > t.lastTenth {
		t.plainLine()
	}
}

func (t *task) refresh() {
	every := plainEvery / 10
	if t.live {
		every = liveEvery
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-t.stopCh:
			return
		case <-tick.C:
		}
		t.s.mu.Lock()
		switch {
		case t.ended:
		case t.live:
			t.s.draw()
		case time.Since(t.lastPlain) >= plainEvery:
			t.plainLine()
		}
		t.s.mu.Unlock()
	}
}

func (t *task) end(how string) {
	s := t.s
	s.mu.Lock()
	if t.ended {
		s.mu.Unlock()
		return
	}
	t.ended = true
	close(t.stopCh)
	s.tasks = slices.DeleteFunc(s.tasks, func(o *task) bool { return o == t })
	s.erase()
	_, _ = fmt.Fprintf(sink(s.Err), "%s: %s (%.1f s)\n", t.label, how, time.Since(t.began).Seconds())
	s.draw()
	s.mu.Unlock()
	t.stopped.Wait()
}

func (t *task) plainLine() {
	t.lastPlain = time.Now()
	if t.fraction >= 0 {
		t.lastTenth = int(t.fraction * 10)
	}
	_, _ = io.WriteString(sink(t.s.Err), t.title()+" ("+t.figures()+")\n")
}

func (t *task) title() string {
	if t.detail == "" {
		return t.label
	}
	return t.label + ": " + t.detail
}

// figures is the part that must not be cut off: how much, how fast, how long.
func (t *task) figures() string {
	var parts []string
	if t.fraction >= 0 {
		parts = append(parts, fmt.Sprintf("%d %%", int(t.fraction*100)))
	}
	if t.done > 0 {
		size := humanize.IBytes(uint64(t.done))
		if t.total > 0 {
			size += " of " + humanize.IBytes(uint64(t.total))
		}
		parts = append(parts, size)
		if dt := time.Since(t.firstAt); dt >= time.Second && t.done > t.firstBytes {
			parts = append(parts, humanize.IBytes(uint64(float64(t.done-t.firstBytes)/dt.Seconds()))+"/s")
		}
	}
	parts = append(parts, fmt.Sprintf("%d s", int(time.Since(t.began).Seconds())))
	return strings.Join(parts, ", ")
}

func (t *task) liveLine(width int) string {
	tail := "  " + t.figures()
	if t.fraction >= 0 && width >= 60 {
		full := int(t.fraction * barWidth)
		tail = "  [" + strings.Repeat("#", full) + strings.Repeat("-", barWidth-full) + "]" + tail
	}
	return fit(fit(t.title(), width-uniseg.StringWidth(tail))+tail, width)
}

// fit shortens s to at most width terminal columns, ending in "…" if something was cut.
func fit(s string, width int) string {
	if uniseg.StringWidth(s) <= width {
		return s
	}
	var b strings.Builder
	used := 0
	for g := uniseg.NewGraphemes(s); g.Next(); {
		if used += g.Width(); used > width-1 {
			break
		}
		b.WriteString(g.Str())
	}
	if width < 1 {
		return ""
	}
	return b.String() + "…"
}

// draw redraws the live line; s.mu must be held. The line leaves the last column free,
// since terminals differ in what they do there.
func (s *Streams) draw() {
	if s.suspended > 0 || len(s.tasks) == 0 {
		return
	}
	line := s.tasks[len(s.tasks)-1].liveLine(s.width() - 1)
	if line == s.drawn {
		return
	}
	s.drawn = line
	_, _ = io.WriteString(sink(s.Err), "\r\x1b[K"+line)
}

// erase removes the live line from the screen; s.mu must be held.
func (s *Streams) erase() {
	if s.drawn != "" {
		s.drawn = ""
		_, _ = io.WriteString(sink(s.Err), "\r\x1b[K")
	}
}

func (s *Streams) width() int {
	if f, ok := s.Err.(*os.File); ok {
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
			return w
		}
	}
	return 80
}
