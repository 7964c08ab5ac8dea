package download

import (
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// Meter says how much, how fast and how long. The rate is that of the last
// seconds, since a resumed download begins with what it did not fetch.
type Meter struct {
	said  time.Time
	since time.Time
	from  int64
	rate  float64
}

const (
	sayEvery  = 200 * time.Millisecond
	meterSpan = 3 * time.Second
)

// Due reports whether something is to be said by now: five times a second.
func (m *Meter) Due() bool {
	if now := time.Now(); now.Sub(m.said) >= sayEvery {
		m.said = now
		return true
	}
	return false
}

// line tells what has come of a file of total bytes; total is -1 if unknown.
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
			left := time.Duration(float64(total-done) / m.rate * float64(time.Second))
			parts = append(parts, left.Round(time.Second).String()+" left")
		}
	}
	return strings.Join(parts, ", ")
}
