package userstack

import (
	"container/list"
	"net/netip"
	"sync"
	"time"
)

// Bounds of connection attempts. A flood of SYNs makes this machine dial as often as
// the bounds permit, and no more.
const (
	maxPending       = 256  // attempts dialed or in the handshake
	fairPending      = 64   // of one address, before it has to replace its own
	rateKnown        = 500  // attempts a second to one address that DNS named or that answered
	rateUnknown      = 200  // attempts a second to all other addresses together
	rateAll          = 2000 // attempts a second
	maxKnown         = 4096
	burstFactor      = 2 // a bucket holds this many seconds' worth
	dialTimeout      = 20 * time.Second
	handshakeTimeout = 10 * time.Second
)

// bucket is a token bucket.
type bucket struct {
	tokens float64
	last   time.Time
}

func (b *bucket) take(now time.Time, rate float64) bool {
	if b.last.IsZero() {
		b.tokens = rate * burstFactor
	} else if passed := now.Sub(b.last); passed > 0 {
		b.tokens = min(b.tokens+passed.Seconds()*rate, rate*burstFactor)
	}
	b.last = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// admission limits how often the guest may try to connect. Addresses that DNS named, or
// that accepted a connection, each have a rate of their own, so that a flood to
// addresses out of thin air does not hold up a request.
type admission struct {
	now func() time.Time

	mu      sync.Mutex
	known   map[netip.Addr]*list.Element // of recent, holding *knownHost
	recent  *list.List                   // the latest used in front
	unknown bucket
	all     bucket
}

type knownHost struct {
	addr   netip.Addr
	bucket bucket
}

func newAdmission(now func() time.Time) *admission {
	return &admission{now: now, known: map[netip.Addr]*list.Element{}, recent: list.New()}
}

// learn gives the address a rate of its own.
func (a *admission) learn(addr netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if e := a.known[addr]; e != nil {
		a.recent.MoveToFront(e)
		return
	}
	if a.recent.Len() >= maxKnown {
		oldest := a.recent.Remove(a.recent.Back()).(*knownHost)
		delete(a.known, oldest.addr)
	}
	a.known[addr] = a.recent.PushFront(&knownHost{addr: addr})
}

// admit reports whether an attempt to connect to the address may be made now.
func (a *admission) admit(addr netip.Addr) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	if e := a.known[addr]; e != nil {
		return e.Value.(*knownHost).bucket.take(now, rateKnown) && a.all.take(now, rateAll)
	}
	return a.unknown.take(now, rateUnknown) && a.all.take(now, rateAll)
}

// pending holds the connection attempts that are under way. When it is full, the oldest
// attempt is given up: of the same address, if that has more than its share, else of all.
type pending struct {
	mu     sync.Mutex
	all    *list.List // of *attempt, the oldest in front
	byAddr map[netip.Addr]*list.List
}

// attempt is one connection attempt; giveUp must not block.
type attempt struct {
	addr        netip.Addr
	giveUp      func()
	inAll, inBy *list.Element
}

func newPending() *pending {
	return &pending{all: list.New(), byAddr: map[netip.Addr]*list.List{}}
}

// enter adds an attempt; leave has to be called for it in any case.
func (p *pending) enter(addr netip.Addr, giveUp func()) *attempt {
	p.mu.Lock()
	defer p.mu.Unlock()
	same := p.byAddr[addr]
	if p.all.Len() >= maxPending {
		oldest := p.all.Front()
		if same != nil && same.Len() >= fairPending {
			oldest = same.Front()
		}
		old := oldest.Value.(*attempt)
		p.remove(old)
		old.giveUp()
		same = p.byAddr[addr]
	}
	if same == nil {
		same = list.New()
		p.byAddr[addr] = same
	}
	a := &attempt{addr: addr, giveUp: giveUp}
	a.inAll, a.inBy = p.all.PushBack(a), same.PushBack(a)
	return a
}

func (p *pending) leave(a *attempt) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.remove(a)
}

func (p *pending) remove(a *attempt) {
	if a.inAll == nil {
		return
	}
	p.all.Remove(a.inAll)
	same := p.byAddr[a.addr]
	same.Remove(a.inBy)
	if same.Len() == 0 {
		delete(p.byAddr, a.addr)
	}
	a.inAll, a.inBy = nil, nil
}
