// Package proxy tests the proxy between a browser and the editors in guests from the browser's side:
// with a real Chromium, the proxies as `aivm code` uses them, and hostile servers instead of editors.
package proxy

import (
	"context"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"aivm.dev/aivm/provision/codeserver"
)

// site is a web server that records its requests: the server of a guest, or another service on this
// machine.
type site struct {
	*httptest.Server
	name string
	mu   sync.Mutex
	seen []*http.Request
	// header is added to every response.
	header http.Header
}

func newSite(t *testing.T, name string) *site {
	t.Helper()
	s := &site{name: name, header: http.Header{}}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	recorded := r.Clone(context.Background())
	recorded.Body = io.NopCloser(strings.NewReader(string(body)))
	s.mu.Lock()
	s.seen = append(s.seen, recorded)
	s.mu.Unlock()
	for k, v := range s.header {
		w.Header()[k] = v
	}
	switch {
	case r.Method == http.MethodPost && r.URL.Path == "/login":
		http.SetCookie(w, &http.Cookie{Name: "code-server-session", Value: "of-" + s.name})
	case r.Header.Get("Upgrade") == "websocket":
		s.webSocket(w, r)
	case r.URL.Path == "/redirect":
		http.Redirect(w, r, r.URL.Query().Get("to"), http.StatusFound)
	case r.URL.Path == "/hints":
		w.Header().Set("Set-Cookie", "hinted=1; Path=/")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Trailer", "Set-Cookie")
		_, _ = io.WriteString(w, "hints")
	case r.URL.Path == "/sw.js":
		w.Header().Set("Content-Type", "text/javascript")
		w.Header().Set("Service-Worker-Allowed", "/")
		_, _ = io.WriteString(w, "self.addEventListener('fetch', e => { if (e.request.url.endsWith('/by-worker')) e.respondWith(new Response('from the worker')) })")
	case strings.HasSuffix(r.URL.Path, ".js"):
		w.Header().Set("Content-Type", "text/javascript")
	default:
		w.Header().Set("Content-Type", "text/html")
		_, _ = fmt.Fprintf(w, "<!DOCTYPE html><title>%s</title><body>%s of %s</body>", s.name, r.URL.Path, s.name)
	}
}

// webSocket answers a WebSocket handshake and sends one greeting message.
func (s *site) webSocket(w http.ResponseWriter, r *http.Request) {
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	conn, rw, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	hello := "hello from " + s.name
	_, _ = fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSet-Cookie: by-socket=1; Path=/\r\nSec-WebSocket-Accept: %s\r\n\r\n\x81%c%s",
		base64.StdEncoding.EncodeToString(sum[:]), rune(len(hello)), hello)
	_ = rw.Flush()
	_, _ = io.Copy(io.Discard, conn)
}

// requests returns the recorded requests whose path contains part.
func (s *site) requests(part string) (out []*http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.seen {
		if strings.Contains(r.URL.Path, part) {
			out = append(out, r)
		}
	}
	return out
}

// attacks returns the kinds of attacks of attack.js that arrived, sorted.
func (s *site) attacks() (kinds []string) {
	for _, r := range s.requests("/attack-") {
		_, kind, _ := strings.Cut(r.URL.Path, "/attack-")
		kinds = append(kinds, strings.TrimSuffix(kind, ".js"))
	}
	slices.Sort(kinds)
	return slices.Compact(kinds)
}

// dump returns a request as text, to search for data that must not be in it.
func dump(r *http.Request) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s\nHost: %s\n", r.Method, r.URL, r.Host)
	_ = r.Header.Write(&b)
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(strings.NewReader(string(body)))
	b.Write(body)
	return b.String()
}

// serve starts a proxy for a guest's server, as `aivm code` does. end stops it.
func serve(t *testing.T, s *site, record string) (p *codeserver.Proxy, end func()) {
	t.Helper()
	p = newProxy(s, record)
	if err := p.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	if err := p.Login(ctx); err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- p.Serve(ctx) }()
	end = sync.OnceFunc(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(end)
	return p, end
}

func dialer(s *site) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", s.Listener.Addr().String())
	}
}
