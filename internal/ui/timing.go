package ui

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// other is the bucket for time spent outside all named buckets.
const other = "other"

// Timing divides the wall time of a run among named buckets. Each moment counts for one
// bucket only, the running one that was started last, so the figures add up even if
// buckets nest or overlap. It is safe for concurrent use.
type Timing struct {
	mu      sync.Mutex
	began   time.Time
	since   time.Time // all time before this is counted in spent
	order   []string
	spent   map[string]time.Duration
	running []*span
}

type span struct{ bucket string }

// NewTiming starts measuring. Line shows the given buckets in this order even if no time
// was spent in them; other buckets follow in the order of their start.
func NewTiming(buckets ...string) *Timing {
	now := time.Now()
	return &Timing{began: now, since: now, order: slices.Clone(buckets), spent: map[string]time.Duration{}}
}

// Start counts the time from now until stop is called for bucket. An empty name counts
// for "other".
func (t *Timing) Start(bucket string) (stop func()) {
	if bucket == "" {
		bucket = other
	}
	sp := &span{bucket}
	t.mu.Lock()
	t.settle()
	if bucket != other && !slices.Contains(t.order, bucket) {
		t.order = append(t.order, bucket)
	}
	t.running = append(t.running, sp)
	t.mu.Unlock()
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if i := slices.Index(t.running, sp); i >= 0 {
			t.settle()
			t.running = slices.Delete(t.running, i, i+1)
		}
	}
}

// settle adds the time since the last change to the bucket that is running.
func (t *Timing) settle() {
	now := time.Now()
	bucket := other
	if n := len(t.running); n > 0 {
		bucket = t.running[n-1].bucket
	}
	t.spent[bucket] += now.Sub(t.since)
	t.since = now
}

// Wall returns the time since NewTiming.
func (t *Timing) Wall() time.Duration { return time.Since(t.began) }

// Spent returns the time of each bucket so far, including "other".
func (t *Timing) Spent() map[string]time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.settle()
	out := make(map[string]time.Duration, len(t.spent))
	for k, v := range t.spent {
		out[k] = v
	}
	return out
}

// Line returns "image 0.0 s · define 0.3 · boot 57.2": seconds that add up to the wall
// time within 5 %. "other" is shown if it is 5 % or more of the wall time, or if the sum
// would be off by more than that without it.
func (t *Timing) Line() string {
	spent := t.Spent()
	t.mu.Lock()
	names := slices.Clone(t.order)
	t.mu.Unlock()
	var wall time.Duration
	for _, d := range spent {
		wall += d
	}
	unit, digits := 100*time.Millisecond, 1
	if wall < 2*time.Second {
		unit, digits = 10*time.Millisecond, 2
	}
	figures := share(names, spent, unit)
	var sum time.Duration
	for _, n := range figures {
		sum += time.Duration(n) * unit
	}
	if gap := wall - sum; len(names) == 0 || spent[other]*20 >= wall || gap.Abs()*20 > wall {
		names = append(names, other)
		figures = share(names, spent, unit)
	}
	parts := make([]string, len(names))
	for i, name := range names {
		parts[i] = fmt.Sprintf("%s %.*f", Clean(name), digits, (time.Duration(figures[i]) * unit).Seconds())
		if i == 0 {
			parts[i] += " s"
		}
	}
	return strings.Join(parts, " · ")
}

// share rounds the figures to units by the largest remainder method, so that their sum
// is the rounded total instead of being off by up to half a unit per figure.
func share(names []string, spent map[string]time.Duration, unit time.Duration) []int64 {
	out := make([]int64, len(names))
	byRest := make([]int, len(names))
	var total time.Duration
	var given int64
	for i, n := range names {
		d := spent[n]
		total += d
		out[i] = int64(d / unit)
		given += out[i]
		byRest[i] = i
	}
	slices.SortStableFunc(byRest, func(a, b int) int {
		return int(spent[names[b]]%unit - spent[names[a]]%unit)
	})
	for i := range int64((total+unit/2)/unit) - given {
		out[byRest[i]]++
	}
	return out
}
