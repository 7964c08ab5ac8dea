package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// packets records when the first SSH banner of each address arrived. It reads the packets on the
// host's bridges and sends none: a connection of the bench would start a process in an emulated
// guest and distort the figure.
type packets struct {
	fd   int
	done chan struct{}
	mu   sync.Mutex
	seen map[netip.Addr]time.Time
}

func listen() (*packets, error) {
	// Incoming packets only, so that each packet of a guest is read once, at the bridge.
	proto := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, syscall.ETH_P_IP))
	fd, err := syscall.Socket(syscall.AF_PACKET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, int(proto))
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	// Closing the descriptor does not end a blocked read, so reads time out regularly.
	if err := syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &syscall.Timeval{Usec: 200_000}); err != nil {
		_ = syscall.Close(fd)
		return nil, os.NewSyscallError("setsockopt", err)
	}
	p := &packets{fd: fd, done: make(chan struct{}), seen: map[netip.Addr]time.Time{}}
	go p.loop()
	return p, nil
}

func (p *packets) loop() {
	buf := make([]byte, 2048)
	for {
		select {
		case <-p.done:
			_ = syscall.Close(p.fd)
			return
		default:
		}
		n, _, err := syscall.Recvfrom(p.fd, buf, 0)
		if err != nil {
			if errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EINTR) {
				continue
			}
			<-p.done
			_ = syscall.Close(p.fd)
			return
		}
		if from, ok := banner(buf[:n]); ok {
			p.mu.Lock()
			if _, had := p.seen[from]; !had {
				p.seen[from] = time.Now()
			}
			p.mu.Unlock()
		}
	}
}

// banner reports whether an IPv4 packet contains the start of an SSH server's first line, and its
// sender (RFC 791, RFC 793, RFC 4253 4.2).
func banner(b []byte) (netip.Addr, bool) {
	if len(b) < 20 || b[0]>>4 != 4 || b[9] != syscall.IPPROTO_TCP {
		return netip.Addr{}, false
	}
	from, _ := netip.AddrFromSlice(b[12:16])
	header := int(b[0]&15) * 4
	if len(b) < header+20 {
		return netip.Addr{}, false
	}
	tcp := b[header:]
	data := int(tcp[12]>>4) * 4
	if binary.BigEndian.Uint16(tcp) != 22 || len(tcp) < data {
		return netip.Addr{}, false
	}
	return from, bytes.HasPrefix(tcp[data:], []byte("SSH-"))
}

// reset makes the next banner of each address count as the first.
func (p *packets) reset() {
	p.mu.Lock()
	clear(p.seen)
	p.mu.Unlock()
}

func (p *packets) first(from string) (time.Time, bool) {
	a, err := netip.ParseAddr(from)
	if err != nil {
		return time.Time{}, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	t, ok := p.seen[a]
	return t, ok
}

func (p *packets) stop() { close(p.done) }

// qemuRunning waits until QEMU runs the guest: its process exists, and libvirt has recorded the
// domain as running, which it does after the CPUs were started. Both are read from files, without
// the daemon.
func (b *bench) qemuRunning(name string, gone <-chan struct{}) (time.Time, error) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if isRunning(name) {
			return time.Now(), nil
		}
		select {
		case <-tick.C:
		case <-gone:
			return time.Time{}, errors.New("the command ended before QEMU ran " + name)
		case <-b.ctx.Done():
			return time.Time{}, b.ctx.Err()
		}
	}
}

func isRunning(name string) bool {
	dir := "/run/libvirt/qemu"
	pid, err := os.ReadFile(filepath.Join(dir, name+".pid"))
	if err != nil {
		return false
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(pid)))
	if err != nil {
		return false
	}
	args, err := os.ReadFile("/proc/" + strconv.Itoa(n) + "/cmdline")
	if err != nil || !bytes.Contains(args, []byte("guest="+name+",")) {
		return false
	}
	status, err := os.ReadFile(filepath.Join(dir, name+".xml"))
	return err == nil && bytes.Contains(status, []byte("<domstatus state='running'"))
}
