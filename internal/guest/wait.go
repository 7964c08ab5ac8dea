package guest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Waiter waits for a guest that boots. Zero fields take the default.
//
// How it waits: short steps until the port opens, then one connection held
// until the banner comes, since socket activation opens the port long before
// sshd runs, and OpenSSH 9.8 punishes clients that connect and leave
// (shares.md 13). The login is tried on that same connection. A refusal while
// booting (pam_nologin, the user not made yet) is followed by another try.
type Waiter struct {
	Limit      time.Duration // of the whole wait; 10 minutes
	Step       time.Duration // between connects; 100 ms
	LoginGap   time.Duration // after a login that was refused or cut; 500 ms
	LoginLimit time.Duration // since the first refused login, after which refusal is final; 2 minutes
	Hold       time.Duration // of a connection without banner; 2 minutes
	Tick       time.Duration // between reports of the same phase; 1 s
}

// OpenSSH 9.8 adds 5 s of penalty per failed login and shuts a source out at
// 15 s: three quick tries are free, then only one in 5 s does not add up.
const (
	freeRefusals = 3
	penaltyGap   = 5 * time.Second
)

// WaitReady waits with the defaults until the guest lets us in. report, which
// may be nil, is told the latest phase when it has changed and every second,
// from one goroutine; phases that pass quicker than it returns are left out. The limit is ctx's deadline or 10 minutes, whichever comes first.
//
// A wrong host key ends the wait at once (*HostKeyError); the limit ends it
// with a *WaitError that holds the phase last seen and the cause; a cancelled
// ctx with its error.
func WaitReady(ctx context.Context, t Target, report func(phase Phase, elapsed time.Duration)) (Conn, error) {
	return Waiter{}.Wait(ctx, t, report)
}

// Wait is WaitReady with w's settings.
func (w Waiter) Wait(ctx context.Context, t Target, report func(phase Phase, elapsed time.Duration)) (Conn, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	if report == nil {
		report = func(Phase, time.Duration) {}
	}
	w.defaults()
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, w.Limit)
	defer cancel()

	state := &waitState{phase: PhaseNoAnswer, changed: make(chan struct{}, 1)}
	type outcome struct {
		c   *conn
		err error
	}
	result := make(chan outcome, 1)
	go func() {
		c, err := w.loop(ctx, t, state)
		result <- outcome{c, err}
	}()
	tick := time.NewTicker(w.Tick)
	defer tick.Stop()
	for {
		select {
		case o := <-result:
			if o.err == nil {
				return o.c, nil
			}
			return nil, w.explain(ctx, t, state, time.Since(began), o.err)
		case <-state.changed:
		case <-tick.C:
		}
		report(state.get(), time.Since(began))
	}
}

func (w *Waiter) defaults() {
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	set(&w.Limit, 10*time.Minute)
	set(&w.Step, 100*time.Millisecond)
	set(&w.LoginGap, 500*time.Millisecond)
	set(&w.LoginLimit, 2*time.Minute)
	set(&w.Hold, 2*time.Minute)
	set(&w.Tick, time.Second)
}

// explain turns the end of the loop into what the caller is told.
func (w Waiter) explain(ctx context.Context, t Target, state *waitState, waited time.Duration, err error) error {
	switch {
	case errors.Is(err, ErrHostKey):
		return err
	case errors.Is(ctx.Err(), context.Canceled):
		return fmt.Errorf("waiting for %s (%s): %w", t.Addr, state.get(), ctx.Err())
	}
	return &WaitError{Addr: t.Addr, Last: state.get(), Waited: waited, Err: err}
}

// loop tries until a login succeeds, trying is pointless, or ctx ends. The
// error is the last try's that says something.
func (w Waiter) loop(ctx context.Context, t Target, state *waitState) (*conn, error) {
	var firstRefusal time.Time
	var last error
	refusals := 0
	for {
		c, err := connect(ctx, t, w.Hold, state.set)
		if err == nil {
			return c, nil
		}
		if errors.Is(err, ErrHostKey) {
			return nil, err
		}
		if ended(ctx) != nil {
			// What the limit cut short says less than a try before it that came
			// as far.
			if last == nil || reached(err) > reached(last) {
				last = err
			}
			return nil, last
		}
		last = err
		gap := w.Step
		var unreachable *UnreachableError
		switch {
		case !errors.As(err, &unreachable):
			if refusals++; refusals == 1 {
				firstRefusal = time.Now()
			}
			if errors.Is(err, ErrAuth) && time.Since(firstRefusal) >= w.LoginLimit {
				return nil, err
			}
			gap = w.LoginGap
			if refusals > freeRefusals && punishes(err) {
				gap = max(gap, penaltyGap)
			}
		case unreachable.Phase == PhaseNoBanner:
			// Accepted and dropped: a forwarder without a server behind it, or
			// sshd shedding load. Each such connect may count against us.
			gap = w.LoginGap
		}
		timer := time.NewTimer(gap)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, last
		case <-timer.C:
		}
	}
}

// reached orders errors by how far the try came.
func reached(err error) int {
	var un *UnreachableError
	switch {
	case errors.Is(err, ErrAuth):
		return 3
	case !errors.As(err, &un):
		return 2
	case un.Phase == PhaseNoBanner:
		return 1
	}
	return 0
}

// waitState is what the loop tells the reporter.
type waitState struct {
	mu      sync.Mutex
	phase   Phase
	changed chan struct{}
}

// set notes how far a try came. A login that follows a refused one does not
// take the phase back: "refused" is what a person needs to know.
func (s *waitState) set(p Phase) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p == s.phase || (s.phase == PhaseRefused && (p == PhaseNoBanner || p == PhaseBanner)) {
		return
	}
	s.phase = p
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

func (s *waitState) get() Phase {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.phase
}

// punishes reports whether the server that broke off a login has
// PerSourcePenalties. One that does not say what it is may.
func punishes(err error) bool {
	var version string
	var auth *AuthError
	var early *earlyError
	if errors.As(err, &auth) {
		version = auth.Server
	} else if errors.As(err, &early) {
		version = early.version
	}
	_, number, ok := strings.Cut(version, "OpenSSH_")
	if !ok {
		return true
	}
	majorText, minorText, _ := strings.Cut(number, ".") // "9.2p1 Debian-2"
	major, err1 := strconv.Atoi(majorText)
	minor, err2 := strconv.Atoi(leadingDigits(minorText))
	if err1 != nil || err2 != nil {
		return true
	}
	return major > 9 || (major == 9 && minor >= 8)
}

func leadingDigits(s string) string {
	end := strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		return s
	}
	return s[:end]
}
