package codeserver

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"
)

// Secret returns a random word for a token or a password.
func Secret() string {
	var b [24]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// Proxy is the way from a browser on this machine to the editor in a guest.
type Proxy struct {
	Dial     func(ctx context.Context) (net.Conn, error) // to the editor
	Password string                                      // the editor's own

	token, name string
	listener    net.Listener
	session     []*http.Cookie
	server      *http.Server
}

// Listen takes a free loopback port.
func (p *Proxy) Listen() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	p.listener, p.token, p.name = l, Secret(), "aivm-"+Secret()[:12]
	return nil
}

// URL opens folder with the token.
func (p *Proxy) URL(folder string) string {
	q := url.Values{"tkn": {p.token}, "folder": {folder}}
	return "http://" + p.listener.Addr().String() + "/?" + q.Encode()
}

// Login waits until the editor answers and gets a session from it.
func (p *Proxy) Login(ctx context.Context) error {
	client := &http.Client{
		Transport:     p.transport(),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       30 * time.Second,
	}
	var last error
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://code-server/login", strings.NewReader(url.Values{"password": {p.Password}}.Encode()))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		res, err := client.Do(req)
		if err == nil {
			_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 1<<20))
			_ = res.Body.Close()
			if p.session = res.Cookies(); len(p.session) > 0 {
				return nil
			}
			err = fmt.Errorf("it answers %s to its own password", res.Status)
		}
		last = err
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), last)
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func (p *Proxy) transport() *http.Transport {
	return &http.Transport{
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return p.Dial(ctx) },
		DisableCompression: true, MaxIdleConnsPerHost: 16,
	}
}

// Serve passes requests on until ctx ends.
func (p *Proxy) Serve(ctx context.Context) error {
	inner := &httputil.ReverseProxy{
		Transport: p.transport(),
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "http", "code-server"
			r.Out.Host = r.In.Host // the editor compares it with Origin
			r.Out.Header.Del("Cookie")
			for _, c := range p.session {
				r.Out.AddCookie(&http.Cookie{Name: c.Name, Value: c.Value})
			}
			for _, c := range r.In.Cookies() {
				if c.Name != p.name {
					r.Out.AddCookie(c)
				}
			}
		},
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, "the VM does not answer", http.StatusBadGateway)
		},
	}
	p.server = &http.Server{
		Handler: p.guard(inner), ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0),
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { _ = p.server.Close() })
	defer stop()
	if err := p.server.Serve(p.listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// guard lets in who brings the token, once in the address and then as a cookie.
// The Host has to be ours: a page elsewhere whose name was made to mean
// 127.0.0.1 has another one.
func (p *Proxy) guard(next http.Handler) http.Handler {
	own := p.listener.Addr().String()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != own {
			http.Error(w, "wrong name", http.StatusMisdirectedRequest)
			return
		}
		same := func(s string) bool { return subtle.ConstantTimeCompare([]byte(s), []byte(p.token)) == 1 }
		if q := r.URL.Query(); q.Has("tkn") {
			if !same(q.Get("tkn")) {
				http.Error(w, "wrong token", http.StatusForbidden)
				return
			}
			http.SetCookie(w, &http.Cookie{Name: p.name, Value: p.token, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode})
			q.Del("tkn")
			http.Redirect(w, r, "/?"+q.Encode(), http.StatusSeeOther)
			return
		}
		if c, err := r.Cookie(p.name); err != nil || !same(c.Value) {
			http.Error(w, "open the address that aivm printed", http.StatusForbidden)
			return
		}
		if o := r.Header.Get("Origin"); o != "" && o != "http://"+own && o != "null" {
			http.Error(w, "wrong origin", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}
