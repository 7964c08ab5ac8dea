package sockets

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Holder is a process with an established connection. A process of another user whose files this
// user may not read has no PID and Program.
type Holder struct {
	UID     int // of the socket
	PID     int
	Program string   // its name, as the kernel has it
	Parent  string   // name of the process that started it; "" if that has ended
	Args    []string // its command line
	Listens bool     // it also accepts TCP connections
	// Idle: it is an ssh that only keeps the connection for later ones (ControlPersist), and nobody
	// uses it.
	Idle bool
}

// ConnectedTo returns the holders of TCP connections to addr.
func ConnectedTo(root string, addr netip.AddrPort) []Holder {
	var out []Holder
	connected := map[string]int{} // number of a connection to addr -> its uid
	listening := map[string]bool{}
	for _, s := range append(Table(root, "tcp"), Table(root, "tcp6")...) {
		switch {
		case s.State == Listen:
			listening[s.Inode] = true
		case s.State == Established && s.Remote == addr:
			connected[s.Inode] = s.UID
		}
	}
	if len(connected) == 0 {
		return nil
	}
	clients := acceptedBySocket(root)
	for _, p := range Processes(root) {
		uid, has, listens, used := -1, false, false, false
		for inode := range p.Inodes() {
			if u, ok := connected[inode]; ok {
				uid, has = u, true
			}
			listens = listens || listening[inode]
			used = used || clients[inode]
		}
		if !has {
			continue
		}
		h := Holder{UID: uid, PID: p.PID(), Program: p.Name(), Parent: p.parent().Name(), Args: p.Args(), Listens: listens}
		// OpenSSH's name for such a process is "ssh: SOCKET [mux]".
		h.Idle = strings.HasSuffix(strings.TrimRight(h.Args[0], " "), "[mux]") && !used
		out = append(out, h)
	}
	slices.SortFunc(out, func(a, b Holder) int { return a.PID - b.PID })
	return append(out, unseen(connected, out)...)
}

// acceptedBySocket returns the numbers of the unix sockets that a program got by accepting a connection:
// they have the path of the socket that listened, and do not listen themselves.
func acceptedBySocket(root string) map[string]bool {
	const acceptsConnections = 1 << 16 // __SO_ACCEPTCON
	out := map[string]bool{}
	b, _ := os.ReadFile(filepath.Join(root, "net", "unix"))
	for line := range bytes.Lines(b) {
		// Num RefCount Protocol Flags Type St Inode Path
		f := strings.Fields(string(line))
		if len(f) < 8 {
			continue
		}
		if flags, err := strconv.ParseUint(f[3], 16, 64); err == nil && flags&acceptsConnections == 0 {
			out[f[6]] = true
		}
	}
	return out
}

// unseen returns a holder for each user who has connections, but none of the holders that were found.
func unseen(connected map[string]int, found []Holder) (out []Holder) {
	uids := map[int]bool{}
	for _, uid := range connected {
		uids[uid] = true
	}
	for _, h := range found {
		delete(uids, h.UID)
	}
	for uid := range uids {
		out = append(out, Holder{UID: uid})
	}
	slices.SortFunc(out, func(a, b Holder) int { return a.UID - b.UID })
	return out
}
