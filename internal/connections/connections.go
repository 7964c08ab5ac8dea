// Package connections finds the programs of this machine that have a TCP connection to an address,
// in the kernel's tables. It asks neither the other end nor a program.
package connections

import (
	"bytes"
	"encoding/hex"
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

// To returns the holders of connections to addr. root is the directory of procfs. What cannot be
// read is left out.
func To(root string, addr netip.AddrPort) []Holder {
	var out []Holder
	sockets := map[string]int{} // number of a connection to addr -> its uid
	listening := map[string]bool{}
	for _, table := range []string{"tcp", "tcp6"} {
		b, _ := os.ReadFile(filepath.Join(root, "net", table))
		for line := range bytes.Lines(b) {
			s, ok := parseSocket(string(line))
			switch {
			case !ok:
			case s.state == listen:
				listening[s.inode] = true
			case s.state == established && s.remote == addr:
				sockets[s.inode] = s.uid
			}
		}
	}
	if len(sockets) == 0 {
		return nil
	}
	clients := acceptedBySocket(root)
	procs, _ := filepath.Glob(filepath.Join(root, "[0-9]*"))
	for _, p := range procs {
		uid, has, listens, used := -1, false, false, false
		fds, _ := os.ReadDir(filepath.Join(p, "fd"))
		for _, fd := range fds {
			to, err := os.Readlink(filepath.Join(p, "fd", fd.Name()))
			inode, isSocket := strings.CutPrefix(strings.TrimSuffix(to, "]"), "socket:[")
			if err != nil || !isSocket {
				continue
			}
			if u, ok := sockets[inode]; ok {
				uid, has = u, true
			}
			listens = listens || listening[inode]
			used = used || clients[inode]
		}
		if !has {
			continue
		}
		h := Holder{UID: uid, Program: name(p), Parent: name(filepath.Join(root, parent(p))), Args: args(p), Listens: listens}
		h.PID, _ = strconv.Atoi(filepath.Base(p))
		// OpenSSH's name for such a process is "ssh: SOCKET [mux]".
		h.Idle = strings.HasSuffix(strings.TrimRight(h.Args[0], " "), "[mux]") && !used
		out = append(out, h)
	}
	slices.SortFunc(out, func(a, b Holder) int { return a.PID - b.PID })
	return append(out, unseen(sockets, out)...)
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
func unseen(sockets map[string]int, found []Holder) (out []Holder) {
	uids := map[int]bool{}
	for _, uid := range sockets {
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

// States of a socket (include/net/tcp_states.h).
const (
	established = 1
	listen      = 10
)

type socket struct {
	remote netip.AddrPort
	state  uint64
	uid    int
	inode  string
}

// parseSocket parses a line of /proc/net/tcp or tcp6: the number of the line, the local and the
// remote address, the state, queues and timers, the uid, a timeout, the inode.
func parseSocket(line string) (s socket, ok bool) {
	f := strings.Fields(line)
	if len(f) < 10 {
		return s, false
	}
	state, err := strconv.ParseUint(f[3], 16, 8)
	if err != nil {
		return s, false
	}
	uid, err := strconv.Atoi(f[7])
	if err != nil {
		return s, false
	}
	s = socket{state: state, uid: uid, inode: f[9]}
	s.remote, ok = parseAddr(f[2])
	return s, ok
}

// parseAddr parses "0100007F:0016": words of 32 bits in the machine's byte order, and the port.
func parseAddr(text string) (netip.AddrPort, bool) {
	ip, port, _ := strings.Cut(text, ":")
	b, err := hex.DecodeString(ip)
	if err != nil || len(b) != 4 && len(b) != 16 {
		return netip.AddrPort{}, false
	}
	n, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, false
	}
	for w := 0; w < len(b); w += 4 {
		slices.Reverse(b[w : w+4]) // amd64 and arm64 are little-endian
	}
	a, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(a.Unmap(), uint16(n)), true
}

func name(proc string) string {
	b, _ := os.ReadFile(filepath.Join(proc, "comm"))
	return strings.TrimSpace(string(b))
}

func args(proc string) []string {
	b, _ := os.ReadFile(filepath.Join(proc, "cmdline"))
	return strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
}

// parent returns the id of the process that started proc. A process's name in stat, between
// brackets, may contain anything.
func parent(proc string) string {
	b, _ := os.ReadFile(filepath.Join(proc, "stat"))
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 2 || f[1] == "1" {
		return "none" // the first process adopts those whose parent has ended
	}
	return f[1]
}
