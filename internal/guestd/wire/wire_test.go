package wire_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"testing"

	"aivm.dev/aivm/internal/guestd/wire"
)

func TestFrames(t *testing.T) {
	var b bytes.Buffer
	b.Write(wire.Frame(wire.Stdin, 7, []byte("data")))
	b.Write(wire.Frame(wire.Resize, 7, wire.Size{Rows: 24, Cols: 80}.Put()))
	b.Write(wire.Frame(wire.StdinEnd, 7, nil))
	r := wire.Reader{R: &b, Accept: wire.FromHost}
	h, payload, err := r.Next()
	if err != nil || h != (wire.Header{Type: wire.Stdin, Stream: 7, Length: 4}) || string(payload) != "data" {
		t.Error(h, payload, err)
	}
	if _, payload, err = r.Next(); err != nil || wire.ParseSize(payload) != (wire.Size{Rows: 24, Cols: 80}) {
		t.Error(payload, err)
	}
	if h, payload, err = r.Next(); err != nil || h.Type != wire.StdinEnd || payload != nil {
		t.Error(h, payload, err)
	}
	if _, _, err = r.Next(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	if code, signal := wire.ParseExit(wire.ExitPayload(3, 9)); code != 3 || signal != 9 {
		t.Error(code, signal)
	}
}

func TestGreeting(t *testing.T) {
	nonce := [wire.NonceSize]byte{1, 2, 3, 4, 5, 6, 7, 8}
	var scan wire.Scanner
	found := 0
	stream := append([]byte("aivm\x00ru stale \xff aivm"), wire.Greeting(nonce)...)
	stream = append(stream, wire.Greeting(nonce)...)
	for _, b := range stream {
		if n, complete := scan.Byte(b); complete {
			found++
			if n != nonce {
				t.Errorf("nonce %v", n)
			}
		}
	}
	if found != 2 {
		t.Errorf("%d greetings", found)
	}
	r := bufio.NewReader(io.MultiReader(bytes.NewReader(make([]byte, 100000)), bytes.NewReader(append(wire.Answer(nonce), "next"...))))
	if err := wire.ReadAnswer(r, nonce); err != nil {
		t.Fatal(err)
	}
	if rest, _ := io.ReadAll(r); string(rest) != "next" {
		t.Errorf("the rest is %q", rest)
	}
}

// FuzzReader feeds the decoder what a hostile guest may send.
func FuzzReader(f *testing.F) {
	f.Add(wire.Frame(wire.Reply, 1, []byte("{}")))
	f.Add(append(wire.Frame(wire.Stdout, 2, []byte("x")), wire.Frame(wire.Exited, 2, wire.ExitPayload(1, 0))...))
	f.Add([]byte{byte(wire.Stdout), 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := wire.Reader{R: bytes.NewReader(b), Accept: wire.FromGuest}
		total := 0
		for {
			h, payload, err := r.Next()
			if err != nil {
				break
			}
			if int(h.Length) != len(payload) || len(payload) > wire.MaxFrame || !wire.FromGuest(h.Type) {
				t.Fatalf("%+v with %d bytes", h, len(payload))
			}
			total += wire.HeaderSize + len(payload)
			if !bytes.HasPrefix(b[total-len(payload)-wire.HeaderSize:], wire.Frame(h.Type, h.Stream, payload)) {
				t.Fatalf("%+v is not what was sent", h)
			}
		}
		if total > len(b) {
			t.Fatalf("%d bytes of %d", total, len(b))
		}
	})
}
