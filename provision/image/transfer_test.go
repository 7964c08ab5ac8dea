package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// Cut at any byte, in one process or with a new one each time, the file that
// comes out is the right one, and nothing of it is fetched twice.
func TestFetchCutAnywhere(t *testing.T) {
	data := disk(400 << 10)
	for _, how := range []string{"one process", "a new process each time"} {
		t.Run(how, func(t *testing.T) {
			s := newServer(t)
			s.publish(t, Default, data, released)
			rnd := rand.New(rand.NewPCG(1, 2))
			cuts := 0
			var sent atomic.Int64
			s.before = func(w http.ResponseWriter, r *http.Request, f served) bool {
				left := len(f.data) - rangeStart(r) - 1
				if cuts == 100 || left < 1 {
					return false
				}
				cuts++
				n := rnd.IntN(2*len(data)/100) + 1
				sent.Add(int64(n))
				s.part(w, r, f, min(n, left))
				return true
			}
			c := Cache{Dir: t.TempDir()}
			f := s.fetcher(t, c)
			var e Entry
			var err error
			if how == "one process" {
				e, _, err = fetch(f, ubuntuRef)
			} else {
				for range 200 {
					f = s.fetcher(t, c)
					ctx, cancel := context.WithCancel(context.Background())
					f.Pause = func(time.Duration) time.Duration { cancel(); return time.Hour }
					e, _, err = f.Fetch(ctx, ubuntuRef, nil)
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
			wantFile(t, e, data)
			for i, r := range s.requests(ubuntuFile) {
				if i > 0 && !strings.Contains(r, "bytes=") {
					t.Errorf("request %d starts over: %q", i, r)
				}
			}
		})
	}
}

// What a server can do wrong, each by its name.
func TestFetchHostileServers(t *testing.T) {
	data := disk(100 << 10)
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(data) }))
	defer plain.Close()
	for _, tt := range []struct {
		name, want string
		before     func(s *server, n int) func(http.ResponseWriter, *http.Request, served) bool
	}{
		{"a stall", Stalled, func(s *server, _ int) func(http.ResponseWriter, *http.Request, served) bool {
			return func(w http.ResponseWriter, r *http.Request, _ served) bool {
				w.Header().Set("Content-Length", "100000")
				w.WriteHeader(200)
				w.(http.Flusher).Flush()
				<-r.Context().Done()
				return true
			}
		}},
		{"a truncated file", Truncated, func(s *server, _ int) func(http.ResponseWriter, *http.Request, served) bool {
			return func(w http.ResponseWriter, r *http.Request, f served) bool {
				if at := rangeStart(r); at >= 50<<10 {
					w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", at, len(f.data)-1, len(f.data)))
					w.WriteHeader(206)
					return true
				}
				s.part(w, r, f, 50<<10)
				return true
			}
		}},
		{"a length that is too small", Checksum, func(_ *server, _ int) func(http.ResponseWriter, *http.Request, served) bool {
			return func(w http.ResponseWriter, _ *http.Request, f served) bool {
				w.Header().Set("Content-Length", "5000")
				_, _ = w.Write(f.data[:5000])
				return true
			}
		}},
		{"a length beyond all disks", TooLarge, func(_ *server, _ int) func(http.ResponseWriter, *http.Request, served) bool {
			return func(w http.ResponseWriter, _ *http.Request, _ served) bool {
				w.Header().Set("Content-Length", "99999999999999")
				w.WriteHeader(200)
				return true
			}
		}},
		{"another file", Checksum, func(_ *server, _ int) func(http.ResponseWriter, *http.Request, served) bool {
			return func(w http.ResponseWriter, _ *http.Request, f served) bool {
				b := bytes.Clone(f.data)
				b[len(b)-1] ^= 1
				_, _ = w.Write(b)
				return true
			}
		}},
		{"a redirect to http", Redirect, func(_ *server, _ int) func(http.ResponseWriter, *http.Request, served) bool {
			return func(w http.ResponseWriter, r *http.Request, _ served) bool {
				http.Redirect(w, r, plain.URL+"/x", http.StatusFound)
				return true
			}
		}},
		{"no such file", Status, func(_ *server, _ int) func(http.ResponseWriter, *http.Request, served) bool {
			return func(w http.ResponseWriter, r *http.Request, _ served) bool { http.NotFound(w, r); return true }
		}},
		{"errors without end", Status, func(_ *server, _ int) func(http.ResponseWriter, *http.Request, served) bool {
			return func(w http.ResponseWriter, _ *http.Request, _ served) bool { w.WriteHeader(503); return true }
		}},
		{"another file at each look", Changed, func(s *server, _ int) func(http.ResponseWriter, *http.Request, served) bool {
			n := 0
			return func(w http.ResponseWriter, r *http.Request, f served) bool {
				n++
				if at := rangeStart(r); at > 0 {
					w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", at, len(f.data)+n-1, len(f.data)+n))
					w.WriteHeader(206)
					return true
				}
				s.part(w, r, f, 10<<10)
				return true
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			s.publish(t, Default, data, released)
			s.before = tt.before(s, len(data))
			f := s.fetcher(t, Cache{Dir: t.TempDir()})
			f.Stall = 200 * time.Millisecond
			_, _, err := fetch(f, ubuntuRef)
			if kind(err) != tt.want {
				t.Errorf("%v", err)
			}
			t.Log(err)
			if _, ok, _ := f.Cache.Lookup(ubuntuRef); ok {
				t.Error("it is in the cache")
			}
			if n := len(s.requests(ubuntuFile)); n > 20 {
				t.Errorf("asked %d times", n)
			}
			// A good mirror makes up for it.
			good := newServer(t)
			good.key = s.key
			good.publish(t, Default, data, released)
			pool := f.TLS.RootCAs.Clone()
			pool.AddCert(good.Certificate())
			f = s.fetcher(t, f.Cache, s.URL, good.URL)
			f.Origin, f.TLS.RootCAs, f.Stall = good.URL, pool, 200*time.Millisecond
			e, _, err := fetch(f, ubuntuRef)
			if err != nil {
				t.Fatal(err)
			}
			wantFile(t, e, data)
		})
	}
}

// The file on the server is replaced while it is fetched: begun anew, never
// stitched together; and what an earlier run left of another file is not used.
func TestFetchChangedFile(t *testing.T) {
	s := newServer(t)
	old, data := disk(100<<10), disk(90<<10)
	s.publish(t, Default, old, released)
	c := Cache{Dir: t.TempDir()}
	n := 0
	s.before = func(w http.ResponseWriter, r *http.Request, f served) bool {
		n++
		if n == 1 {
			defer s.publish(t, Default, data, released.Add(time.Minute))
			s.part(w, r, f, 60<<10)
			return true
		}
		return false
	}
	e, changed, err := fetch(s.fetcher(t, c), ubuntuRef)
	if err != nil || !changed {
		t.Fatal(changed, err)
	}
	wantFile(t, e, data)

	// A part with rubbish in it, of nobody knows what.
	third := disk(80 << 10)
	s.publish(t, Default, third, released.Add(2*time.Minute))
	part := filepath.Join(c.Dir, fetchPrefix+fmt.Sprintf("%x", sha256.Sum256(third))[:32])
	if err := os.WriteFile(part, bytes.Repeat([]byte("x"), 70<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	if e, _, err = fetch(s.fetcher(t, c), ubuntuRef); err != nil {
		t.Fatal(err)
	}
	wantFile(t, e, third)

	// A server without ranges sends all of it again.
	fourth := disk(85 << 10)
	s.publish(t, Default, fourth, released.Add(3*time.Minute))
	n = 0
	s.before = func(w http.ResponseWriter, r *http.Request, f served) bool {
		n++
		r.Header.Del("Range")
		if n < 3 {
			s.part(w, r, f, n*20<<10)
			return true
		}
		return false
	}
	if e, _, err = fetch(s.fetcher(t, c), ubuntuRef); err != nil {
		t.Fatal(err)
	}
	wantFile(t, e, fourth)
}
