// Package sockets reads the kernel's tables of this machine's sockets, and finds the processes that have
// them: who is connected to an address, who listens at a port. It asks neither the other end nor a
// program. root is always the directory of procfs. What cannot be read is left out.
package sockets

import (
	"bytes"
	"encoding/hex"
	"iter"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// States of a TCP socket (include/net/tcp_states.h).
const (
	Established = 1
	Listen      = 10
)

// Socket is a socket of TCP or UDP.
type Socket struct {
	Local, Remote netip.AddrPort
	State         uint64
	UID           int    // of the user who opened it
	Inode         string // its number
}

// Table returns the sockets of one table: "tcp", "tcp6", "udp" or "udp6".
func Table(root, name string) []Socket {
	b, _ := os.ReadFile(filepath.Join(root, "net", name))
	return Parse(b)
}

// Parse returns the sockets in the text of a table. Lines have a number, the local and the remote
// address, the state, queues and timers, the uid, a timeout, and the inode (proc_net_tcp.rst of Linux).
func Parse(table []byte) (out []Socket) {
	for line := range bytes.Lines(table) {
		f := strings.Fields(string(line))
		if len(f) < 10 {
			continue
		}
		local, lok := parseAddr(f[1])
		remote, rok := parseAddr(f[2])
		state, serr := strconv.ParseUint(f[3], 16, 8)
		uid, uerr := strconv.Atoi(f[7])
		if lok && rok && serr == nil && uerr == nil {
			out = append(out, Socket{local, remote, state, uid, f[9]})
		}
	}
	return out
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

// Process is a process of this machine, by its directory in procfs.
type Process string

// Processes returns all processes.
func Processes(root string) []Process {
	dirs, _ := filepath.Glob(filepath.Join(root, "[0-9]*"))
	out := make([]Process, len(dirs))
	for i, d := range dirs {
		out[i] = Process(d)
	}
	return out
}

// PID returns the number of the process.
func (p Process) PID() int {
	n, _ := strconv.Atoi(filepath.Base(string(p)))
	return n
}

// Inodes returns the numbers of the sockets that the process has open; none of another user's process.
func (p Process) Inodes() iter.Seq[string] {
	return func(yield func(string) bool) {
		dir := filepath.Join(string(p), "fd")
		fds, _ := os.ReadDir(dir)
		for _, fd := range fds {
			to, err := os.Readlink(filepath.Join(dir, fd.Name()))
			if inode, ok := strings.CutPrefix(strings.TrimSuffix(to, "]"), "socket:["); err == nil && ok && !yield(inode) {
				return
			}
		}
	}
}

// Name returns the name that the kernel has of the process, at most 15 characters; "" if it has ended.
func (p Process) Name() string {
	b, _ := os.ReadFile(filepath.Join(string(p), "comm"))
	return strings.TrimSpace(string(b))
}

// Args returns the command line of the process.
func (p Process) Args() []string {
	b, _ := os.ReadFile(filepath.Join(string(p), "cmdline"))
	return strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
}

// parent returns the process that started p. A process's name in stat, between brackets, may contain
// anything.
func (p Process) parent() Process {
	b, _ := os.ReadFile(filepath.Join(string(p), "stat"))
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 2 || f[1] == "1" {
		return "/none" // the first process adopts those whose parent has ended
	}
	return Process(filepath.Join(filepath.Dir(string(p)), f[1]))
}
