package image

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// served is one file of a server; etag "" is none.
type served struct {
	data []byte
	etag string
}

// server is an https server that shows releases as their publishers do, with a
// signing key of its own, and misbehaves as it is told.
type server struct {
	*httptest.Server
	key *openpgp.Entity

	mu    sync.Mutex
	files map[string]served
	seen  []string // "PATH RANGE" of each request
	// before, if set, sees each request for an image first and reports whether
	// it has answered it.
	before func(w http.ResponseWriter, r *http.Request, f served) bool
}

var released = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// testKey makes a key as Ubuntu's are: RSA, signing by itself.
func testKey(t testing.TB) *openpgp.Entity {
	t.Helper()
	k, err := openpgp.NewEntity("test", "", "t@example.org", &packet.Config{
		RSABits: 2048, Algorithm: packet.PubKeyAlgoRSA, Time: func() time.Time { return released.AddDate(-1, 0, 0) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

var shared struct {
	sync.Once
	key *openpgp.Entity
}

func newServer(t testing.TB) *server {
	t.Helper()
	shared.Do(func() { shared.key = testKey(t) })
	s := &server{key: shared.key, files: map[string]served{}}
	s.Server = httptest.NewTLSServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	f, ok := s.files[r.URL.Path]
	s.seen = append(s.seen, strings.TrimSpace(path.Base(r.URL.Path)+" "+r.Header.Get("Range")))
	before := s.before
	s.mu.Unlock()
	if before != nil && !strings.Contains(r.URL.Path, "SUMS") && before(w, r, f) {
		return
	}
	if !ok {
		http.NotFound(w, r)
		return
	}
	s.answer(w, r, f)
}

func (*server) answer(w http.ResponseWriter, r *http.Request, f served) {
	if f.etag != "" {
		w.Header().Set("ETag", f.etag)
	}
	http.ServeContent(w, r, "", released, bytes.NewReader(f.data))
}

func (s *server) requests(name string) (out []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.seen {
		if base, _, _ := strings.Cut(r, " "); base == name {
			out = append(out, r)
		}
	}
	return out
}

// publish puts a build of a release there, signed at that time.
func (s *server) publish(t testing.TB, name string, data []byte, at time.Time) {
	t.Helper()
	r, ok := Find(name)
	if !ok {
		t.Fatal(name)
	}
	file := r.Named("amd64")
	sum := fmt.Sprintf("%x", sha256.Sum256(data))
	if r.digits() == 128 {
		sum = fmt.Sprintf("%x", sha512.Sum512(data))
	}
	list := []byte(strings.Repeat("0", r.digits()) + " *other.img\n" + sum + " *" + file + "\n")
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[r.Dir+"/"+file] = served{data, fmt.Sprintf("%q", sum[:16])}
	s.files[r.Dir+"/"+r.Sums] = served{list, ""}
	if r.Signed {
		s.files[r.Dir+"/"+r.Sums+".gpg"] = served{sign(t, s.key, list, at), ""}
	}
}

func sign(t testing.TB, key *openpgp.Entity, list []byte, at time.Time) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := openpgp.ArmoredDetachSign(&b, key, bytes.NewReader(list), &packet.Config{DefaultHash: crypto.SHA512, Time: func() time.Time { return at }}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// fetcher is one process that uses the server.
func (s *server) fetcher(t testing.TB, c Cache, mirrors ...string) *Fetcher {
	return &Fetcher{
		Cache: c, Mirrors: mirrors, Arch: "amd64", Origin: s.URL, Stall: 2 * time.Second,
		TLS:   &tls.Config{RootCAs: s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs},
		Keys:  func() (openpgp.EntityList, error) { return openpgp.EntityList{s.key}, nil },
		Now:   func() time.Time { return released.Add(time.Hour) },
		Pause: func(time.Duration) time.Duration { return 0 },
	}
}

// disk is an image of n bytes with random content.
func disk(n int) []byte {
	r := rand.New(rand.NewPCG(uint64(n), 7))
	b := append(qcow2(nil), make([]byte, n)...)
	for i := len(b) - n; i < len(b); i++ {
		b[i] = byte(r.Uint32())
	}
	return b
}

// part answers up to n bytes of what is asked for and breaks the connection.
func (s *server) part(w http.ResponseWriter, r *http.Request, f served, n int) {
	s.answer(&cutter{ResponseWriter: w, left: n}, r, f)
}

type cutter struct {
	http.ResponseWriter
	left int
}

func (c *cutter) Write(b []byte) (int, error) {
	if len(b) <= c.left {
		c.left -= len(b)
		return c.ResponseWriter.Write(b)
	}
	_, _ = c.ResponseWriter.Write(b[:c.left])
	c.ResponseWriter.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

// rangeStart is the first byte a request asks for.
func rangeStart(r *http.Request) int {
	n, _, _ := strings.Cut(strings.TrimPrefix(r.Header.Get("Range"), "bytes="), "-")
	at, _ := strconv.Atoi(n)
	return at
}

var ubuntuRef = Ref{Kind: KindCatalogue, Name: Default}

func fetch(f *Fetcher, ref Ref) (Entry, bool, error) {
	return f.Fetch(context.Background(), ref, nil)
}
