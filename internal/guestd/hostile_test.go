package guestd_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"aivm.dev/aivm/internal/guestd"
	"aivm.dev/aivm/internal/guestd/wire"
)

// A hostile is a guest that does what a test wants.
type hostile struct {
	t    *testing.T
	file *os.File
}

// attack connects to a hostile guest, whose behaviour after the handshake is act.
func attack(t *testing.T, act func(*hostile)) *guestd.Session {
	t.Helper()
	conn, guest := pair(t)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer guest.Close()
		h := &hostile{t, guest}
		greeting := make([]byte, wire.GreetingSize)
		if _, err := io.ReadFull(guest, greeting); err != nil {
			return
		}
		h.write(wire.Answer([wire.NonceSize]byte(greeting[wire.GreetingSize-wire.NonceSize:])))
		act(h)
	}()
	s, err := guestd.Connect(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		<-ended
	})
	return s
}

// write writes what the host may no longer read.
func (h *hostile) write(b []byte) bool {
	_, err := h.file.Write(b)
	return err == nil
}

func (h *hostile) frame(t wire.Type, stream uint32, payload []byte) bool {
	return h.write(wire.Frame(t, stream, payload))
}

// next reads a frame of the host.
func (h *hostile) next() (wire.Header, []byte) {
	r := wire.Reader{R: h.file, Accept: wire.FromHost}
	head, payload, err := r.Next()
	if err != nil {
		return wire.Header{}, nil
	}
	return head, payload
}

// started answers the host's Start, and returns its number and credit.
func (h *hostile) started() (id, credit uint32) {
	for {
		head, payload := h.next()
		if head.Type == 0 {
			return 0, 0
		}
		if head.Type == wire.Start {
			var r wire.StartRequest
			if err := json.Unmarshal(payload, &r); err != nil {
				h.t.Error(err)
			}
			h.frame(wire.Reply, head.Stream, []byte("{}"))
			return head.Stream, r.OutCredit
		}
	}
}

func number(values ...uint32) []byte {
	var b []byte
	for _, v := range values {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return b
}

// TestHostileFrames checks that each of these ends the session with a protocol error.
func TestHostileFrames(t *testing.T) {
	for name, act := range map[string]func(h *hostile, id, credit uint32){
		"oversized": func(h *hostile, id, _ uint32) {
			b := make([]byte, wire.HeaderSize)
			wire.Header{Type: wire.Stdout, Stream: id, Length: 1 << 31}.Put(b)
			h.write(b)
		},
		"largest length": func(h *hostile, id, _ uint32) {
			h.write([]byte{byte(wire.Stdout), 0, 0, 0, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff})
		},
		"empty data":           func(h *hostile, id, _ uint32) { h.write(wire.Frame(wire.Stdout, id, nil)) },
		"unknown type":         func(h *hostile, id, _ uint32) { h.write(wire.Frame(255, id, nil)) },
		"type 0":               func(h *hostile, id, _ uint32) { h.write(make([]byte, 64)) },
		"a request":            func(h *hostile, id, _ uint32) { h.frame(wire.Start, id, []byte("{}")) },
		"unknown command":      func(h *hostile, id, _ uint32) { h.frame(wire.Stdout, id+1, []byte("x")) },
		"reply to no request":  func(h *hostile, id, _ uint32) { h.frame(wire.Reply, id+9, []byte("{}")) },
		"second reply":         func(h *hostile, id, _ uint32) { h.frame(wire.Reply, id, []byte("{}")) },
		"more than its credit": func(h *hostile, id, credit uint32) { flood(h, id, credit+1, 64<<10) },
		"output after its end": func(h *hostile, id, _ uint32) {
			h.frame(wire.StdoutEnd, id, nil)
			h.frame(wire.Stdout, id, []byte("x"))
		},
		"credit for nothing": func(h *hostile, id, _ uint32) { h.frame(wire.GrantIn, id, number(1)) },
		"too much credit":    func(h *hostile, id, _ uint32) { h.frame(wire.GrantIn, id, number(0xffffffff)) },
		"two ends": func(h *hostile, id, _ uint32) {
			h.frame(wire.Exited, id, number(0, 0))
			h.frame(wire.Exited, id, number(0, 0))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := attack(t, func(h *hostile) {
				id, credit := h.started()
				act(h, id, credit)
				io.Copy(io.Discard, h.file)
			})
			r, w := io.Pipe() // nobody reads the output
			defer r.Close()
			_, err := s.Start(t.Context(), guestd.Command{Argv: []string{"x"}, Stdout: w})
			if err != nil && !errors.Is(err, guestd.ErrProtocol) {
				t.Fatal(err)
			}
			select {
			case <-s.Done():
			case <-time.After(30 * time.Second):
				t.Fatal("the session still lasts")
			}
			if !errors.Is(s.Err(), guestd.ErrProtocol) {
				t.Errorf("got %v", s.Err())
			}
		})
	}
}

// flood sends so many bytes of output in frames of a size.
func flood(h *hostile, id, bytes uint32, size int) {
	for bytes > 0 {
		n := min(uint32(size), bytes)
		if !h.frame(wire.Stdout, id, make([]byte, n)) {
			return
		}
		bytes -= n
	}
}

// TestHostileFlood checks that output that nobody reads, in frames of one byte, takes
// no more memory than its credit, a few times over.
func TestHostileFlood(t *testing.T) {
	sent := make(chan struct{})
	s := attack(t, func(h *hostile) {
		id, credit := h.started()
		flood(h, id, min(credit, 50_000), 1)
		close(sent)
		io.Copy(io.Discard, h.file)
	})
	r, w := io.Pipe()
	defer r.Close()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	if _, err := s.Start(t.Context(), guestd.Command{Argv: []string{"x"}, Stdout: w}); err != nil {
		t.Fatal(err)
	}
	<-sent
	time.Sleep(100 * time.Millisecond)
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 8<<20 {
		t.Errorf("the memory grew by %d bytes", grown)
	}
}

// TestHostileText checks that errors of the guest are bounded and without control
// characters.
func TestHostileText(t *testing.T) {
	s := attack(t, func(h *hostile) {
		for {
			head, _ := h.next()
			if head.Type == 0 {
				return
			}
			m, err := json.Marshal(map[string]any{"Error": "\x1b[2J\xff\xfe\u202e" + strings.Repeat("x", 20000), "Conflict": "/other\xff"})
			if err != nil {
				t.Error(err)
			}
			h.frame(wire.Reply, head.Stream, m)
		}
	})
	err := s.Setup(t.Context(), guestd.Setup{Mounts: []guestd.Mount{{Path: "/work"}}})
	var conflict *guestd.ConflictError
	if err == nil || errors.As(err, &conflict) {
		t.Fatalf("got %v", err)
	}
	if text := err.Error(); len(text) > 4<<10 || !utf8.ValidString(text) || strings.ContainsAny(text, "\x1b\u202e") {
		t.Errorf("got %d bytes: %.80q", len(text), text)
	}
	if _, err = s.Start(t.Context(), guestd.Command{Argv: []string{"x"}}); err == nil || len(err.Error()) > 4<<10 {
		t.Error("no error, or a long one")
	}
}

// TestHostileSilence checks that nothing waits longer than its context: the guest
// neither reads nor answers.
func TestHostileSilence(t *testing.T) {
	release := make(chan struct{})
	s := attack(t, func(*hostile) { <-release })
	defer close(release)
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if err := s.Setup(ctx, guestd.Setup{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if _, err := s.Start(ctx, guestd.Command{Argv: []string{"x"}}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		cancel()
	}
}

// TestHostileReader checks that a guest that does not read does not delay signals: it counts as gone.
func TestHostileReader(t *testing.T) {
	release := make(chan struct{})
	s := attack(t, func(h *hostile) {
		h.started()
		<-release
	})
	defer close(release)
	p, err := s.Start(t.Context(), guestd.Command{Argv: []string{"x"}})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for err == nil {
		err = p.Signal(syscall.SIGTERM)
	}
	if took := time.Since(began); !errors.Is(err, guestd.ErrStuck) || took > 10*time.Second {
		t.Errorf("after %v: %v", took, err)
	}
	if _, err := p.Wait(); !errors.Is(err, guestd.ErrStuck) {
		t.Errorf("got %v", err)
	}
}

// TestHostileHandshake checks greetings that are answered wrongly or not at all.
func TestHostileHandshake(t *testing.T) {
	for name, answer := range map[string]func(nonce [wire.NonceSize]byte) []byte{
		"another nonce":   func(n [wire.NonceSize]byte) []byte { n[0]++; return wire.Answer(n) },
		"another version": func(n [wire.NonceSize]byte) []byte { b := wire.Answer(n); b[len(b)-1]++; return b },
		"nothing":         func([wire.NonceSize]byte) []byte { return nil },
		"without end":     func([wire.NonceSize]byte) []byte { return make([]byte, 2<<20) },
		"the greeting":    wire.Greeting,
	} {
		t.Run(name, func(t *testing.T) {
			conn, guest := pair(t)
			go func() {
				b := make([]byte, wire.GreetingSize)
				if _, err := io.ReadFull(guest, b); err == nil {
					guest.Write(answer([wire.NonceSize]byte(b[wire.GreetingSize-wire.NonceSize:])))
				}
				if name != "nothing" {
					guest.Close()
				}
			}()
			defer guest.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			if s, err := guestd.Connect(ctx, conn); err == nil {
				s.Close()
				t.Error("the handshake succeeded")
			}
			if _, err := conn.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
				t.Errorf("the connection is not closed: %v", err)
			}
		})
	}
}
