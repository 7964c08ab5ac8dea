package capture

import "bytes"

// Lines calls Each for every line that is written to it, without the newline. A
// line of more than Limit bytes is passed in pieces, so that one long line cannot
// fill the memory. Only one goroutine at a time may use it.
type Lines struct {
	Limit int // 0: 1 MiB
	Each  func(string)
	rest  []byte
}

// Write implements io.Writer; it never fails.
func (l *Lines) Write(p []byte) (int, error) {
	limit := l.Limit
	if limit == 0 {
		limit = 1 << 20
	}
	n := len(p)
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		part := p
		if i >= 0 {
			part = p[:i]
		}
		room := limit - len(l.rest)
		if len(part) > room {
			l.rest = append(l.rest, part[:room]...)
			p = p[room:]
			l.Flush()
			continue
		}
		l.rest = append(l.rest, part...)
		if i < 0 {
			break
		}
		p = p[i+1:]
		l.Each(string(l.rest))
		l.rest = l.rest[:0]
	}
	return n, nil
}

// Flush passes the last line to Each if no newline ended it.
func (l *Lines) Flush() {
	if len(l.rest) > 0 {
		l.Each(string(l.rest))
		l.rest = l.rest[:0]
	}
}
