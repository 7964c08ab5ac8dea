// Package downloadtest provides an https file server for tests, with ranges and ETags, whose
// responses a test can replace by faulty ones.
//
// It uses only a loopback port, until the test ends.
package downloadtest

import (
	"bytes"
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"path"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Modified is the modification time of every file.
var Modified = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// File is one file of a server; without an ETag if that is "".
type File struct {
	Data []byte
	ETag string
}

// Server serves files by their paths.
type Server struct {
	*httptest.Server

	mu     sync.Mutex
	files  map[string]File
	seen   []string // "NAME RANGE" of each request
	before func(w http.ResponseWriter, r *http.Request, f File) bool
}

// New starts a server without files, which runs until the test ends.
func New(t testing.TB) *Server {
	t.Helper()
	s := &Server{files: map[string]File{}}
	s.Server = httptest.NewTLSServer(s)
	t.Cleanup(s.Close)
	return s
}

// TLS returns a client configuration that trusts the certificates of s and of others.
func (s *Server) TLS(others ...*Server) *tls.Config {
	pool := s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs.Clone()
	for _, o := range others {
		pool.AddCert(o.Certificate())
	}
	return &tls.Config{RootCAs: pool}
}

// Put adds or replaces a file.
func (s *Server) Put(path string, f File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[path] = f
}

// File returns a file.
func (s *Server) File(path string) File {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.files[path]
}

// Remove removes a file.
func (s *Server) Remove(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.files, path)
}

// Before sets a function that is called first for each request and reports whether it has written
// the response.
func (s *Server) Before(f func(w http.ResponseWriter, r *http.Request, f File) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = f
}

// Requests returns the requests for files of this base name, each as "NAME RANGE".
func (s *Server) Requests(name string) (out []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.seen {
		if base, _, _ := strings.Cut(r, " "); base == name {
			out = append(out, r)
		}
	}
	return out
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	f, ok := s.files[r.URL.Path]
	s.seen = append(s.seen, strings.TrimSpace(path.Base(r.URL.Path)+" "+r.Header.Get("Range")))
	before := s.before
	s.mu.Unlock()
	if before != nil && before(w, r, f) {
		return
	}
	if !ok {
		http.NotFound(w, r)
		return
	}
	answer(w, r, f)
}

func answer(w http.ResponseWriter, r *http.Request, f File) {
	if f.ETag != "" {
		w.Header().Set("ETag", f.ETag)
	}
	http.ServeContent(w, r, "", Modified, bytes.NewReader(f.Data))
}

// Part sends at most n bytes of the requested range and then breaks the connection.
func Part(w http.ResponseWriter, r *http.Request, f File, n int) {
	answer(&cutter{ResponseWriter: w, remaining: n}, r, f)
}

type cutter struct {
	http.ResponseWriter
	remaining int
}

func (c *cutter) Write(b []byte) (int, error) {
	if len(b) <= c.remaining {
		c.remaining -= len(b)
		return c.ResponseWriter.Write(b)
	}
	_, _ = c.ResponseWriter.Write(b[:c.remaining])
	c.ResponseWriter.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

// RangeStart returns the offset of the first byte that a request asks for.
func RangeStart(r *http.Request) int {
	n, _, _ := strings.Cut(strings.TrimPrefix(r.Header.Get("Range"), "bytes="), "-")
	at, _ := strconv.Atoi(n)
	return at
}
