package download

import (
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// Meter computes size, rate and remaining time of a download for progress lines. The rate is that of
// the last seconds, because a resumed download starts with bytes that it did not fetch.
type Meter struct {
	reported time.Time
	since    time.Time
	from     int64
	rate     float64
}

const (
	reportEvery = 200 * time.Millisecond
	meterSpan   = 3 * time.Second
)

// Due reports whether to print progress now; it returns true at most five times a second.
func (m *Meter) Due() bool {
	if now := time.Now(); now.Sub(m.reported) >= reportEvery {
		m.reported = now
		return true
	}
	return false
}

// line returns the progress line for done of total bytes; total is -1 if unknown.
func (m *Meter) line(done, total int64) string {
	now := time.Now()
	if m.since.IsZero() || done < m.from {
		m.since, m.from, m.rate = now, done, 0
	}
	if dt := now.Sub(m.since); dt >= meterSpan || m.rate == 0 && dt >= 500*time.Millisecond {
		m.rate = float64(done-m.from) / dt.Seconds()
		m.since, m.from = now, done
	}
	parts := []string{humanize.Bytes(uint64(done))}
	if total > 0 {
		parts[0] += " of " + humanize.Bytes(uint64(total))
	}
	if m.rate > 0 {
		parts = append(parts, humanize.Bytes(uint64(m.rate))+"/s")
		if total > done {
			remaining := time.Duration(float64(total-done) / m.rate * float64(time.Second))
			parts = append(parts, remaining.Round(time.Second).String()+" left")
		}
	}
	return strings.Join(parts, ", ")
}
