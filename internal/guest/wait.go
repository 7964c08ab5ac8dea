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

// Waiter waits until a booting guest accepts a login. Zero fields have the defaults given below.
//
// It connects at short intervals until the port opens, then keeps one connection open until the SSH
// banner arrives: socket activation opens the port long before sshd runs, and OpenSSH 9.8 penalizes
// clients that connect and disconnect (PerSourcePenalties in sshd_config(5)). It logs in on that
// connection. If the login is refused during the boot (pam_nologin, the user does not exist yet), it
// tries again.
type Waiter struct {
	Limit      time.Duration // for the complete wait; 10 minutes
	Step       time.Duration // between connects; 100 ms
	LoginGap   time.Duration // after a login that was refused or broken off; 500 ms
	LoginLimit time.Duration // after the first refused login, until a refusal is final; 2 minutes
	Hold       time.Duration // for a connection without banner; 2 minutes
	Tick       time.Duration // between reports of the same phase; 1 s
}

// OpenSSH 9.8 adds a penalty of 5 s per failed login and refuses a source address at 15 s: three
// quick tries are free, then only one try per 5 s does not increase the penalty.
const (
	freeRefusals = 3
	penaltyGap   = 5 * time.Second
)

// WaitReady waits with the defaults until the guest accepts a login. report, which may be nil, is
// called from one goroutine with the latest phase when it changes and every second; phases that pass
// faster than report returns are skipped. The limit is ctx's deadline or 10 minutes, whichever comes
// first.
//
// A wrong host key ends the wait at once with a *HostKeyError, the limit with a *WaitError that has
// the last phase and the cause, and a cancelled ctx with its error.
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

// explain converts the error of the loop to the one for the caller.
func (w Waiter) explain(ctx context.Context, t Target, state *waitState, waited time.Duration, err error) error {
	switch {
	case errors.Is(err, ErrHostKey):
		return err
	case errors.Is(ctx.Err(), context.Canceled):
		return fmt.Errorf("waiting for %s (%s): %w", t.Addr, state.get(), ctx.Err())
	}
	return &WaitError{Addr: t.Addr, Last: state.get(), Waited: waited, Err: err}
}

// loop tries until a login succeeds, another try is useless, or ctx ends. It returns the error of the
// last try, or of an earlier one that got further if ctx ended the last one.
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
			// ctx interrupted this try. An earlier try that got at least as far has the better error.
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
			if refusals > freeRefusals && hasPenalties(err) {
				gap = max(gap, penaltyGap)
			}
		case unreachable.Phase == PhaseNoBanner:
			// Accepted and closed: a forwarder without a server behind it, or an overloaded sshd.
			// Each such connection may add to the penalty.
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

// reached returns how far a try got, from 0 (no connection) to 3 (login refused).
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

// waitState holds the phase, which the loop sets and the reporter reads.
type waitState struct {
	mu      sync.Mutex
	phase   Phase
	changed chan struct{}
}

// set sets the phase. After a refused login, the phases of the next try are ignored: "refused" is
// what the user needs to know.
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

// hasPenalties reports whether the server that refused a login has PerSourcePenalties (OpenSSH 9.8
// and newer). A server of unknown version is assumed to have them.
func hasPenalties(err error) bool {
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
