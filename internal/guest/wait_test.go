package guest

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

func rsaKey(t *testing.T) ssh.PublicKey {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := ssh.NewPublicKey(&k.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return pub
}

func freeAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

type recorder struct{ phases []Phase }

func (r *recorder) report(p Phase, _ time.Duration) {
	if len(r.phases) == 0 || r.phases[len(r.phases)-1] != p {
		r.phases = append(r.phases, p)
	}
}

var quick = Waiter{Limit: 10 * time.Second, Step: 10 * time.Millisecond, LoginGap: 20 * time.Millisecond, Tick: 10 * time.Millisecond}

func TestWaitFromClosedPortToLogin(t *testing.T) {
	noLeaks(t)
	addr := freeAddr(t)
	up := make(chan *server, 1)
	gate := make(chan struct{})
	openGate := sync.OnceFunc(func() { close(gate) })
	defer openGate()
	hostKey, user := signer(t), signer(t)
	target := Target{Addr: addr, User: "agent", HostKey: hostKey.PublicKey(), Auth: []ssh.AuthMethod{ssh.PublicKeys(user)}}
	timer := time.AfterFunc(150*time.Millisecond, func() {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			t.Error(err)
			close(up)
			return
		}
		s := &server{t: t, ln: ln, hostKey: hostKey, user: user, conns: map[net.Conn]bool{}, gate: gate}
		s.cfg = &ssh.ServerConfig{PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) {
			if s.refuse.Load() > 0 {
				return nil, errors.New("system is booting up")
			}
			return &ssh.Permissions{}, nil
		}}
		s.cfg.AddHostKey(hostKey)
		s.refuse.Store(2)
		s.wg.Go(s.accept)
		up <- s
	})
	defer timer.Stop()
	var rec recorder
	c, err := quick.Wait(t.Context(), target, func(p Phase, d time.Duration) {
		rec.report(p, d)
		if p == PhaseNoBanner {
			openGate() // only now, so that the phase is reported even on a slow machine
		}
	})
	openGate()
	s := <-up
	defer func() {
		_ = s.ln.Close()
		s.cut()
		s.wg.Wait()
	}()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if n := s.connections.Load(); n != 3 {
		t.Errorf("%d connections, want 3: one per refused login and the last one", n)
	}
	want := []Phase{PhasePortClosed, PhaseNoBanner, PhaseRefused}
	at := -1
	for _, p := range want {
		i := slices.Index(rec.phases, p)
		if i <= at {
			t.Errorf("phases %q, want %q in this order", rec.phases, want)
		}
		at = i
	}
}

func TestWaitHoldsOneConnection(t *testing.T) {
	noLeaks(t)
	s := newServer(t)
	s.bannerDelay.Store(int64(500 * time.Millisecond))
	c, err := quick.Wait(t.Context(), s.target(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if n := s.connections.Load(); n != 1 {
		t.Errorf("%d connections for one login", n)
	}
}

func TestWaitEndsAtOnceOnAWrongHostKey(t *testing.T) {
	noLeaks(t)
	s := newServer(t)
	bad := s.target()
	bad.HostKey = signer(t).PublicKey()
	_, err := WaitReady(t.Context(), bad, nil)
	if !errors.Is(err, ErrHostKey) || s.connections.Load() != 1 {
		t.Errorf("after %d connections: %v", s.connections.Load(), err)
	}
}

func TestWaitExplainsItsLimit(t *testing.T) {
	noLeaks(t)
	s := newServer(t)
	mute := newServer(t)
	mute.silent.Store(true)
	for _, tc := range []struct {
		name   string
		target func() Target
		last   Phase
		is     error
	}{
		{"port closed", func() Target { x := s.target(); x.Addr = freeAddr(t); return x }, PhasePortClosed, ErrUnreachable},
		{"no banner", mute.target, PhaseNoBanner, ErrUnreachable},
		{"refused", func() Target {
			x := s.target()
			x.Auth = []ssh.AuthMethod{ssh.PublicKeys(signer(t))}
			return x
		}, PhaseRefused, ErrAuth},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			_, err := quick.Wait(ctx, tc.target(), nil)
			var w *WaitError
			if !errors.As(err, &w) || w.Last != tc.last || !errors.Is(err, tc.is) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestWaitEndsAfterLoginLimit(t *testing.T) {
	noLeaks(t)
	s := newServer(t)
	x := s.target()
	x.Auth = []ssh.AuthMethod{ssh.PublicKeys(signer(t))}
	w := quick
	w.LoginLimit = 100 * time.Millisecond
	_, err := w.Wait(t.Context(), x, nil)
	if !errors.Is(err, ErrAuth) {
		t.Errorf("got %v", err)
	}
}

func TestWaitIsCancelledInEveryPhase(t *testing.T) {
	noLeaks(t)
	s := newServer(t)
	mute := newServer(t)
	mute.silent.Store(true)
	for name, target := range map[string]Target{
		"port closed": func() Target { x := s.target(); x.Addr = freeAddr(t); return x }(),
		"no banner":   mute.target(),
		"refused": func() Target {
			x := s.target()
			x.Auth = []ssh.AuthMethod{ssh.PublicKeys(signer(t))}
			return x
		}(),
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(100*time.Millisecond, cancel)
			began := time.Now()
			_, err := WaitReady(ctx, target, nil)
			if !errors.Is(err, context.Canceled) || time.Since(began) > time.Second {
				t.Errorf("after %s: %v", time.Since(began), err)
			}
		})
	}
}

func TestHasPenalties(t *testing.T) {
	for version, want := range map[string]bool{
		"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3": false,
		"SSH-2.0-OpenSSH_9.6p1 Ubuntu-3ubuntu13": false,
		"SSH-2.0-OpenSSH_9.8":                    true,
		"SSH-2.0-OpenSSH_10.0p2 Debian-7":        true,
		"SSH-2.0-OpenSSH_8.9p1":                  false,
		"SSH-2.0-dropbear":                       true,
		"":                                       true,
	} {
		if got := hasPenalties(&AuthError{Server: version}); got != want {
			t.Errorf("%q: %v", version, got)
		}
		if got := hasPenalties(fmt.Errorf("x: %w", &earlyError{version: version})); got != want {
			t.Errorf("%q early: %v", version, got)
		}
	}
}
