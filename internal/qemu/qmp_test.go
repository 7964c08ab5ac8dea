package qemu

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// peer is a QMP connection whose other end is the test.
func peer(t *testing.T) (*qmp, net.Conn) {
	t.Helper()
	far, near, err := SocketPair("qmp")
	if err != nil {
		t.Fatal(err)
	}
	other, err := net.FileConn(far)
	_ = far.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Close(); _ = near.Close() })
	return newQMP(near.(*net.UnixConn)), other
}

const greeting = `{"QMP": {"version": {}, "capabilities": []}}` + "\n"

func TestQMP(t *testing.T) {
	q, other := peer(t)
	_, _ = io.WriteString(other, greeting)
	answer := func(text string) { // the next command
		go func() {
			_, _ = other.Read(make([]byte, 1000))
			_, _ = io.WriteString(other, text)
		}()
	}
	ctx := t.Context()
	answer(`{"return": {}}` + "\n")
	if err := q.greet(ctx); err != nil {
		t.Fatal(err)
	}
	answer(`{"event": "RESUME"}` + "\n" + `{"return": {"status": "paused"}}` + "\n")
	var out struct{ Status string }
	if err := q.do(ctx, "query-status", nil, &out); err != nil || out.Status != "paused" {
		t.Fatal(out, err)
	}
	if e := <-q.events; e.Name != "RESUME" {
		t.Error(e)
	}
	answer(`{"error": {"class": "GenericError", "desc": "no such\u001b[2J thing"}}` + "\n")
	err := q.do(ctx, "device_add", nil, nil)
	var refused *Refused
	if !errors.As(err, &refused) || refused.Command != "device_add" || strings.Contains(err.Error(), "\x1b") {
		t.Error(err)
	}
}

// TestQMPBounds lets the other end send what QEMU never sends: the connection ends
// with an error, and memory stays bounded.
func TestQMPBounds(t *testing.T) {
	for name, send := range map[string]func(w io.Writer){
		"endless line": func(w io.Writer) {
			for block := strings.Repeat("x", 1<<20); ; {
				if _, err := io.WriteString(w, block); err != nil {
					return
				}
			}
		},
		"no JSON":     func(w io.Writer) { _, _ = io.WriteString(w, "hello\n") },
		"end":         func(w io.Writer) { _ = w.(io.Closer).Close() },
		"answers":     func(w io.Writer) { _, _ = io.WriteString(w, strings.Repeat(`{"return": {}}`+"\n", 100)) },
		"no greeting": func(w io.Writer) { _, _ = io.WriteString(w, `{"return": {}}`+"\n") },
		"events": func(w io.Writer) {
			_, _ = io.WriteString(w, strings.Repeat(`{"event": "A"}`+"\n", 100_000))
			_ = w.(io.Closer).Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			q, other := peer(t)
			go send(other)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := q.greet(ctx); err == nil || ctx.Err() != nil {
				t.Error(err)
			}
			_ = q.conn.Close()
		})
	}
}

// TestQMPAbandoned checks that the late answer of a command that was given up is not
// taken for the answer of the next one.
func TestQMPAbandoned(t *testing.T) {
	q, other := peer(t)
	go func() {
		_, _ = io.WriteString(other, greeting)
		_, _ = other.Read(make([]byte, 1000))
		_, _ = io.WriteString(other, `{"return": {}}`+"\n")
	}()
	if err := q.greet(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := q.do(ctx, "first", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	_, _ = io.WriteString(other, `{"return": {}}`+"\n")
	if err := q.do(t.Context(), "second", nil, nil); err == nil {
		t.Error("the second command took the answer of the first")
	}
}
