package guest

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"aivm.dev/aivm/internal/ui"
)

func dial(t *testing.T, s *server) *conn {
	t.Helper()
	c, err := Dial(t.Context(), s.target())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c.(*conn)
}

func TestDialErrors(t *testing.T) {
	noLeaks(t)
	s := newServer(t)

	t.Run("wrong host key", func(t *testing.T) {
		bad := s.target()
		bad.HostKey = signer(t).PublicKey()
		_, err := Dial(t.Context(), bad)
		var hk *HostKeyError
		if !errors.As(err, &hk) || !errors.Is(err, ErrHostKey) || hk.Got == nil || IsUnreachable(err) || errors.Is(err, ErrAuth) {
			t.Errorf("got %v", err)
		}
		if s.logins.Load() != 0 {
			t.Error("a login was tried in spite of a wrong host key")
		}
	})
	t.Run("no key of the pinned type", func(t *testing.T) {
		_, err := Dial(t.Context(), func() Target {
			x := s.target()
			x.HostKey = rsaKey(t)
			return x
		}())
		var hk *HostKeyError
		if !errors.As(err, &hk) || hk.Got != nil {
			t.Errorf("got %v", err)
		}
	})
	t.Run("login refused", func(t *testing.T) {
		bad := s.target()
		bad.Auth = []ssh.AuthMethod{ssh.PublicKeys(signer(t))}
		_, err := Dial(t.Context(), bad)
		var auth *AuthError
		if !errors.As(err, &auth) || !errors.Is(err, ErrAuth) || IsUnreachable(err) || auth.Server == "" {
			t.Errorf("got %v", err)
		}
	})
	t.Run("nothing listens", func(t *testing.T) {
		x := s.target()
		x.Addr = freeAddr(t)
		_, err := Dial(t.Context(), x)
		var un *UnreachableError
		if !errors.As(err, &un) || un.Phase != PhasePortClosed || !IsUnreachable(err) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("not an address", func(t *testing.T) {
		x := s.target()
		x.Addr = "localhost:22"
		if _, err := Dial(t.Context(), x); err == nil || IsUnreachable(err) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("dropped without a banner", func(t *testing.T) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		go func() {
			c, err := ln.Accept()
			if err == nil {
				_, _ = io.WriteString(c, "Not allowed at this time\r\n")
				_ = c.Close()
			}
		}()
		x := s.target()
		x.Addr = ln.Addr().String()
		_, err = Dial(t.Context(), x)
		var un *UnreachableError
		if !errors.As(err, &un) || un.Phase != PhaseNoBanner {
			t.Errorf("got %v", err)
		}
	})
}

func TestDialIsCancelledInEveryPhase(t *testing.T) {
	noLeaks(t)
	s := newServer(t)
	for _, tc := range []struct {
		name    string
		prepare func(*Target)
	}{
		// TEST-NET-1 (RFC 5737): either nothing answers or there is no route.
		{"connecting", func(x *Target) { x.Addr = "192.0.2.1:22" }},
		{"waiting for the banner", func(*Target) { s.silent.Store(true) }},
		{"logging in", func(x *Target) {
			s.silent.Store(false)
			x.Auth = []ssh.AuthMethod{ssh.PublicKeysCallback(func() ([]ssh.Signer, error) {
				time.Sleep(300 * time.Millisecond)
				return []ssh.Signer{s.user}, nil
			})}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			target := s.target()
			tc.prepare(&target)
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(100*time.Millisecond, cancel)
			began := time.Now()
			c, err := Dial(ctx, target)
			if err == nil {
				_ = c.Close()
				t.Fatal("connected")
			}
			if !errors.Is(err, context.Canceled) && !IsUnreachable(err) {
				t.Errorf("got %v", err)
			}
			if d := time.Since(began); d > time.Second {
				t.Errorf("took %s", d)
			}
		})
	}
}

func TestDeadlineWithoutBannerIsUnreachable(t *testing.T) {
	noLeaks(t)
	s := newServer(t)
	s.silent.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := Dial(ctx, s.target())
	if !IsUnreachable(err) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestCipherForEmulation(t *testing.T) {
	noLeaks(t)
	c := dial(t, newServer(t))
	a := c.client.Conn.(ssh.AlgorithmsConnMetadata).Algorithms()
	if a.KeyExchange != ssh.KeyExchangeCurve25519 || a.Write.Cipher != ssh.CipherChaCha20Poly1305 || a.HostKey != ssh.KeyAlgoED25519 {
		t.Errorf("negotiated %+v", a)
	}
}

func TestDialThrough(t *testing.T) {
	noLeaks(t)
	c := dial(t, newServer(t))
	nc, err := c.Dial(t.Context(), "127.0.0.1:7")
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := nc.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	if _, err := io.ReadFull(nc, got); err != nil || string(got) != "ping" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := c.Dial(t.Context(), "127.0.0.1:1"); err == nil || errors.Is(err, ErrLost) {
		t.Errorf("refused forward: %v", err)
	}
}

func TestSilentGuestIsDisconnected(t *testing.T) {
	noLeaks(t)
	// A server that accepts the login and then never answers a request.
	s := newServer(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		nc, err := ln.Accept()
		if err == nil {
			_, _, _, _ = ssh.NewServerConn(nc, s.cfg)
		}
		accepted <- nc
	}()
	target := s.target()
	target.Addr = ln.Addr().String()
	c, err := connect(t.Context(), target, time.Minute, func(Phase) {})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	serverConn := <-accepted
	defer serverConn.Close()
	go c.keepalive(10*time.Millisecond, 50*time.Millisecond)
	_, err = c.Run(t.Context(), Cmd{Argv: []string{"true"}})
	if !errors.Is(err, ErrLost) || !errors.Is(err, errSilent) {
		t.Errorf("got %v", err)
	}
}

func TestErrorsStayOnOneLine(t *testing.T) {
	for _, err := range []error{
		&AuthError{Addr: "a", User: "u", Err: errors.New("x\x1b[31m\ny")},
		&WaitError{Addr: "a", Err: errors.New("x\x1b[31m\ny")},
		&CommandError{Argv: []string{"tar", "\x1b[2J"}, Exit: 2, Stderr: "a\n\x1b[2Jb\n"},
		&ProbeError{Names: []string{"a"}, Exit: map[string]int{"a": 2}, Stderr: "a\n\x1b[2Jb\n"},
	} {
		if s := err.Error(); s != ui.Clean(s) {
			t.Errorf("%T: %q", err, s)
		}
	}
}
