package download

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"aivm.dev/aivm/internal/download/downloadtest"
	"aivm.dev/aivm/internal/ui"
)

// content returns n pseudo-random bytes, the same for each call.
func content(n int) []byte {
	r := rand.New(rand.NewPCG(uint64(n), 7))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func sum(b []byte) Digest { return Digest{"sha256", fmt.Sprintf("%x", sha256.Sum256(b))} }

func client(s *downloadtest.Server, others ...*downloadtest.Server) *Client {
	return &Client{TLS: s.TLS(others...), Stall: 2 * time.Second, Pause: func(time.Duration) time.Duration { return 0 }}
}

// get downloads to dir/file as callers of the package do.
func get(ctx context.Context, c *Client, dir string, want Digest, urls ...string) error {
	at := Place{Dir: dir, What: "the file", Err: func(err error) error { return ui.Failed("disk: %w", err) }}
	t, err := c.Open(ctx, at, want, func(string, float64) {})
	if err != nil {
		return err
	}
	defer t.Close()
	if err := t.From(ctx, urls); err != nil {
		return err
	}
	if err := os.Rename(t.File().Name(), filepath.Join(dir, "file")); err != nil {
		return err
	}
	t.Drop()
	return nil
}

// wantFile checks that get wrote data and left no parts.
func wantFile(t *testing.T, dir string, data []byte) {
	t.Helper()
	if b, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || !bytes.Equal(b, data) {
		t.Fatalf("%v, %d bytes of %d", err, len(b), len(data))
	}
	if parts := Parts(dir); parts != nil {
		t.Errorf("left behind: %v", parts)
	}
}

func kind(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return fmt.Sprint(err)
}

// TestCutAnywhere breaks the connection at random bytes, in one process or with a new one each time:
// the result must be the correct file, and no request may start over.
func TestCutAnywhere(t *testing.T) {
	data := content(400 << 10)
	for _, how := range []string{"one process", "a new process each time"} {
		t.Run(how, func(t *testing.T) {
			s := downloadtest.New(t)
			s.Put("/d/file", downloadtest.File{Data: data, ETag: `"1"`})
			rnd := rand.New(rand.NewPCG(1, 2))
			cuts := 0
			s.Before(func(w http.ResponseWriter, r *http.Request, f downloadtest.File) bool {
				remaining := len(f.Data) - downloadtest.RangeStart(r) - 1
				if cuts == 100 || remaining < 1 {
					return false
				}
				cuts++
				downloadtest.Part(w, r, f, min(rnd.IntN(2*len(data)/100)+1, remaining))
				return true
			})
			dir, c := t.TempDir(), client(s)
			var err error
			if how == "one process" {
				err = get(t.Context(), c, dir, sum(data), s.URL+"/d/file")
			} else {
				for range 200 {
					ctx, cancel := context.WithCancel(t.Context())
					c = client(s)
					c.Pause = func(time.Duration) time.Duration { cancel(); return time.Hour }
					err = get(ctx, c, dir, sum(data), s.URL+"/d/file")
					cancel()
					if err == nil {
						break
					}
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			if cuts < 50 {
				t.Errorf("only %d cuts", cuts)
			}
			wantFile(t, dir, data)
			for i, r := range s.Requests("file") {
				if i > 0 && !strings.Contains(r, "bytes=") {
					t.Errorf("request %d starts over: %q", i, r)
				}
			}
		})
	}
}

// TestHostileServers checks the kind of error for each fault of a server, and that a second server
// then delivers the file.
func TestHostileServers(t *testing.T) {
	data := content(100 << 10)
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(data) }))
	defer plain.Close()
	changes := 0
	for _, tt := range []struct {
		name, want string
		before     func(w http.ResponseWriter, r *http.Request, f downloadtest.File)
	}{
		{"a stall", Stalled, func(w http.ResponseWriter, r *http.Request, _ downloadtest.File) {
			w.Header().Set("Content-Length", "100000")
			w.WriteHeader(200)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}},
		{"a truncated file", Truncated, func(w http.ResponseWriter, r *http.Request, f downloadtest.File) {
			if at := downloadtest.RangeStart(r); at >= 50<<10 {
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", at, len(f.Data)-1, len(f.Data)))
				w.WriteHeader(206)
				return
			}
			downloadtest.Part(w, r, f, 50<<10)
		}},
		{"a length that is too small", Checksum, func(w http.ResponseWriter, _ *http.Request, f downloadtest.File) {
			w.Header().Set("Content-Length", "5000")
			_, _ = w.Write(f.Data[:5000])
		}},
		{"a length beyond all disks", TooLarge, func(w http.ResponseWriter, _ *http.Request, _ downloadtest.File) {
			w.Header().Set("Content-Length", "99999999999999")
			w.WriteHeader(200)
		}},
		{"another file", Checksum, func(w http.ResponseWriter, _ *http.Request, f downloadtest.File) {
			b := bytes.Clone(f.Data)
			b[len(b)-1] ^= 1
			_, _ = w.Write(b)
		}},
		{"a redirect to http", Redirect, func(w http.ResponseWriter, r *http.Request, _ downloadtest.File) {
			http.Redirect(w, r, plain.URL+"/x", http.StatusFound)
		}},
		{"no such file", Status, func(w http.ResponseWriter, r *http.Request, _ downloadtest.File) { http.NotFound(w, r) }},
		{"errors without end", Status, func(w http.ResponseWriter, _ *http.Request, _ downloadtest.File) { w.WriteHeader(503) }},
		{"another file for each request", Changed, func(w http.ResponseWriter, r *http.Request, f downloadtest.File) {
			changes++
			if at := downloadtest.RangeStart(r); at > 0 {
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", at, len(f.Data)+changes-1, len(f.Data)+changes))
				w.WriteHeader(206)
				return
			}
			downloadtest.Part(w, r, f, 10<<10)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			bad, good := downloadtest.New(t), downloadtest.New(t)
			file := downloadtest.File{Data: data, ETag: `"1"`}
			bad.Put("/d/file", file)
			good.Put("/d/file", file)
			bad.Before(func(w http.ResponseWriter, r *http.Request, f downloadtest.File) bool {
				tt.before(w, r, f)
				return true
			})
			dir := t.TempDir()
			c := client(bad, good)
			c.Stall = 200 * time.Millisecond
			err := get(t.Context(), c, dir, sum(data), bad.URL+"/d/file")
			if kind(err) != tt.want {
				t.Errorf("%v", err)
			}
			t.Log(err)
			if n := len(bad.Requests("file")); n > 20 {
				t.Errorf("asked %d times", n)
			}
			// A second server delivers the file.
			c = client(bad, good)
			c.Stall = 200 * time.Millisecond
			if err := get(t.Context(), c, dir, sum(data), bad.URL+"/d/file", good.URL+"/d/file"); err != nil {
				t.Fatal(err)
			}
			wantFile(t, dir, data)
		})
	}
}

// TestChangedFile replaces the file on the server during a download: the download starts over and
// never combines two versions. A part of another file is not used either.
func TestChangedFile(t *testing.T) {
	s := downloadtest.New(t)
	dir := t.TempDir()
	old, data := content(100<<10), content(90<<10)
	s.Put("/file", downloadtest.File{Data: old, ETag: `"old"`})
	n := 0
	s.Before(func(w http.ResponseWriter, r *http.Request, f downloadtest.File) bool {
		if n++; n == 1 {
			defer s.Put("/file", downloadtest.File{Data: data, ETag: `"new"`})
			downloadtest.Part(w, r, f, 60<<10)
		}
		return n == 1
	})
	if err := get(t.Context(), client(s), dir, sum(data), s.URL+"/file"); err != nil {
		t.Fatal(err)
	}
	wantFile(t, dir, data)

	// A part with wrong bytes and no metadata.
	third := content(80 << 10)
	s.Put("/file", downloadtest.File{Data: third, ETag: `"3"`})
	if err := os.WriteFile(filepath.Join(dir, Prefix+sum(third).Hex[:32]), bytes.Repeat([]byte("x"), 70<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := get(t.Context(), client(s), dir, sum(third), s.URL+"/file"); err != nil {
		t.Fatal(err)
	}
	wantFile(t, dir, third)

	// A server without ranges sends the complete file again.
	fourth := content(85 << 10)
	s.Put("/file", downloadtest.File{Data: fourth, ETag: `"4"`})
	n = 0
	s.Before(func(w http.ResponseWriter, r *http.Request, f downloadtest.File) bool {
		n++
		r.Header.Del("Range")
		if n < 3 {
			downloadtest.Part(w, r, f, n*20<<10)
		}
		return n < 3
	})
	if err := get(t.Context(), client(s), dir, sum(fourth), s.URL+"/file"); err != nil {
		t.Fatal(err)
	}
	wantFile(t, dir, fourth)
}

// TestSHA512 checks downloads with a SHA-512 digest, a correct and a wrong one.
func TestSHA512(t *testing.T) {
	s := downloadtest.New(t)
	data := content(10 << 10)
	s.Put("/file", downloadtest.File{Data: data})
	dir := t.TempDir()
	want := Digest{"sha512", fmt.Sprintf("%x", sha512.Sum512(data))}
	if err := get(t.Context(), client(s), dir, want, s.URL+"/file"); err != nil {
		t.Fatal(err)
	}
	wantFile(t, dir, data)
	want.Hex = strings.Repeat("0", 128)
	if err := get(t.Context(), client(s), dir, want, s.URL+"/file"); kind(err) != Checksum {
		t.Error(err)
	}
	if parts := Parts(dir); parts != nil {
		t.Errorf("left behind: %v", parts)
	}
}

// TestOneTry checks that a server which accepts connections and sends nothing gets one request from
// a client with OneTry, idleTries requests from others, and that OneTry still resumes a download
// that has begun.
func TestOneTry(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var asked atomic.Int32
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			asked.Add(1)
			defer c.Close()
		}
	}()
	s := downloadtest.New(t)
	for _, oneTry := range []bool{true, false} {
		asked.Store(0)
		c := client(s)
		c.OneTry, c.Stall = oneTry, 50*time.Millisecond
		err := get(t.Context(), c, t.TempDir(), sum(nil), "https://"+l.Addr().String()+"/file")
		if want := map[bool]int32{true: 1, false: idleTries}[oneTry]; kind(err) != Stalled || asked.Load() != want {
			t.Errorf("%v: %d times, %v", oneTry, asked.Load(), err)
		}
	}
	data := content(50 << 10)
	s.Put("/file", downloadtest.File{Data: data, ETag: `"1"`})
	n := 0
	s.Before(func(w http.ResponseWriter, r *http.Request, f downloadtest.File) bool {
		if n++; n == 1 {
			downloadtest.Part(w, r, f, 20<<10)
		}
		return n == 1
	})
	dir, c := t.TempDir(), client(s)
	c.OneTry = true
	if err := get(t.Context(), c, dir, sum(data), s.URL+"/file"); err != nil {
		t.Fatal(err)
	}
	wantFile(t, dir, data)
}

// TestSweep checks that parts are kept for a week, and other files are not removed.
func TestSweep(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	for name, age := range map[string]time.Duration{Prefix + "a": keepParts + time.Hour, Prefix + "b": keepParts - time.Hour, "image": 2 * keepParts} {
		p := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(p, nil, 0o600), os.Chtimes(p, now, now.Add(-age))); err != nil {
			t.Fatal(err)
		}
	}
	Sweep(dir, now)
	l, err := os.ReadDir(dir)
	if err != nil || len(l) != 2 || l[0].Name() != Prefix+"b" || l[1].Name() != "image" {
		t.Errorf("%v %v", l, err)
	}
}
