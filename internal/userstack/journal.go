package userstack

import (
	"fmt"
	"io"
	"net/netip"
	"sync"
)

const (
	journalLines = 200 // then it is silent: a guest decides how often something is refused
	journalHosts = 64  // refusals are written once for each address and port
)

// journal writes what was refused, for a person to read.
type journal struct {
	mu    sync.Mutex
	to    io.Writer
	lines int
	seen  map[netip.AddrPort]bool
}

func newJournal(to io.Writer) *journal { return &journal{to: to, seen: map[netip.AddrPort]bool{}} }

func (j *journal) printf(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.print(format, args...)
}

func (j *journal) print(format string, args ...any) {
	switch j.lines++; {
	case j.lines < journalLines:
		fmt.Fprintf(j.to, "network: "+format+"\n", args...)
	case j.lines == journalLines:
		fmt.Fprintln(j.to, "network: more is not written")
	}
}

// refused writes that a connection was refused.
func (j *journal) refused(to netip.AddrPort) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.seen[to] || len(j.seen) >= journalHosts {
		return
	}
	j.seen[to] = true
	j.print("connection to %s refused: not a public address", to)
}
