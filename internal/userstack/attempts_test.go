package userstack

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"
)

func noDial(context.Context, netip.AddrPort) (*net.TCPConn, error) {
	return nil, errors.New("connection refused")
}

func TestAdmission(t *testing.T) {
	now := time.Unix(1, 0)
	a := newAdmission(func() time.Time { return now })
	known, other := netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("203.0.113.2")
	a.learn(known)
	count := func(addr netip.Addr, n int) (admitted int) {
		for range n {
			if a.admit(addr) {
				admitted++
			}
		}
		return admitted
	}
	if got := count(other, 10000); got != rateUnknown*burstFactor {
		t.Errorf("%d attempts to an unknown address", got)
	}
	if got := count(known, 10000); got != rateKnown*burstFactor {
		t.Errorf("%d attempts to a known address", got)
	}
	now = now.Add(time.Second)
	if got := count(other, 10000); got != rateUnknown {
		t.Errorf("%d attempts to an unknown address a second later", got)
	}
	now = now.Add(-time.Hour) // the clock was set back: nothing is gained or lost
	if got := count(other, 100); got != 0 {
		t.Errorf("%d attempts after the clock was set back", got)
	}
	for i := range 3 * maxKnown {
		a.learn(netip.AddrFrom4([4]byte{9, byte(i >> 16), byte(i >> 8), byte(i)}))
	}
	if len(a.known) != maxKnown || a.recent.Len() != maxKnown || a.known[known] != nil {
		t.Errorf("%d known addresses", len(a.known))
	}
}

func TestPending(t *testing.T) {
	p := newPending()
	givenUp := map[int]bool{}
	enter := func(i int, addr string) *attempt {
		return p.enter(netip.MustParseAddr(addr), func() { givenUp[i] = true })
	}
	enter(0, "9.0.0.1")
	for i := 1; i < maxPending; i++ {
		enter(i, "203.0.113.1")
	}
	if len(givenUp) != 0 {
		t.Fatalf("given up before it was full: %v", givenUp)
	}
	// The address of the many replaces its own, not the oldest of another.
	enter(1000, "203.0.113.1")
	if !givenUp[1] || len(givenUp) != 1 {
		t.Errorf("given up: %v, want 1", givenUp)
	}
	a := enter(1001, "203.0.113.2")
	if !givenUp[0] || len(givenUp) != 2 {
		t.Errorf("given up: %v, want the oldest", givenUp)
	}
	p.leave(a)
	p.leave(a)
	if p.all.Len() != maxPending-1 || len(p.byAddr) != 1 {
		t.Errorf("%d attempts of %d addresses", p.all.Len(), len(p.byAddr))
	}
}

func TestRulesReadTheMachine(t *testing.T) {
	var addrs []net.Addr
	var failed error
	reads := 0
	mirror := netip.MustParseAddrPort("10.0.0.5:8080")
	r := newRules([]netip.AddrPort{mirror}, func() ([]net.Addr, error) { reads++; return addrs, failed })
	now := time.Unix(1, 0)
	r.now = func() time.Time { return now }
	to := netip.MustParseAddrPort("203.0.113.9:80")
	addrs = []net.Addr{&net.IPNet{IP: net.IP{127, 0, 0, 1}, Mask: net.CIDRMask(8, 32)}}
	for range 100 {
		if !r.connect(to) {
			t.Fatal("a public address is refused")
		}
	}
	if reads != 1 {
		t.Errorf("%d reads", reads)
	}
	addrs = append(addrs, &net.IPNet{IP: net.IP{203, 0, 113, 2}, Mask: net.CIDRMask(24, 32)})
	now = now.Add(machineTTL)
	if r.connect(to) {
		t.Error("an address of a connected subnet is allowed")
	}
	if !r.connect(mirror) || r.connect(netip.MustParseAddrPort("10.0.0.5:8081")) || r.connect(netip.MustParseAddrPort("10.0.0.6:8080")) {
		t.Error("not exactly the mirror is allowed")
	}
	if !r.answer(mirror.Addr()) || r.answer(netip.MustParseAddr("10.0.0.6")) {
		t.Error("not exactly the mirror's address is answered")
	}
	now = now.Add(machineTTL)
	failed = errors.New("no netlink")
	addrs = nil
	if r.connect(netip.MustParseAddrPort("1.1.1.1:80")) {
		t.Error("allowed although the machine's addresses are unknown")
	}
	if r.connect(netip.AddrPortFrom(to.Addr(), 0)) {
		t.Error("port 0 is allowed")
	}
}
