package userstack

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"aivm.dev/aivm/internal/userstack/public"
)

// machineTTL is how long the list of this machine's addresses is used before it is read
// again.
const machineTTL = time.Second

// rules decide which addresses the guest may connect to.
type rules struct {
	allow      map[netip.AddrPort]bool
	allowHosts map[netip.Addr]bool
	addrs      func() ([]net.Addr, error) // of this machine
	now        func() time.Time

	mu      sync.Mutex
	machine public.Machine
	read    time.Time
	failed  bool
}

func newRules(allow []netip.AddrPort, addrs func() ([]net.Addr, error)) *rules {
	r := &rules{allow: map[netip.AddrPort]bool{}, allowHosts: map[netip.Addr]bool{}, addrs: addrs, now: time.Now}
	for _, a := range allow {
		r.allow[a] = true
		r.allowHosts[a.Addr()] = true
	}
	return r
}

// connect reports whether the guest may connect to the address and port.
func (r *rules) connect(to netip.AddrPort) bool {
	return to.Port() != 0 && (r.allow[to] || r.public(to.Addr()))
}

// answer reports whether the guest may be told the address in a DNS answer.
func (r *rules) answer(a netip.Addr) bool { return r.allowHosts[a] || r.public(a) }

// public reports whether a is a public address, and neither this machine's nor in a
// subnet it is connected to. While these cannot be read, no address is.
func (r *rules) public(a netip.Addr) bool {
	if !public.Allowed(a) {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := r.now(); r.read.IsZero() || now.Sub(r.read) >= machineTTL || now.Before(r.read) {
		addrs, err := r.addrs()
		r.machine, r.read, r.failed = public.Connected(addrs), now, err != nil || len(addrs) == 0
	}
	return !r.failed && !r.machine.Contains(a)
}
