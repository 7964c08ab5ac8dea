package codeserver

import (
	"context"
	"crypto/rand"
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

// Secret returns 48 random hex digits, for a token or a password.
func Secret() string {
	var b [24]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// Proxy forwards requests of a browser on this machine to the editor in a guest. The guest's side
// is not trusted: it may serve any web page, and be any HTTP server.
type Proxy struct {
	Dial     func(ctx context.Context) (net.Conn, error) // to the editor
	Password string                                      // of the editor
	Folder   string                                      // opened first
	Record   string                                      // file that stores the address; "": none

	record    *record
	listeners []net.Listener
	gate      gate
	editor    []*http.Cookie // the editor's session, which no browser sees
	server    *http.Server
}

// Listen listens on the address of the VM, or on a new one if its port is in use.
func (p *Proxy) Listen() error {
	r, err := openRecord(p.Record)
	if err != nil {
		return err
	}
	ls, err := r.listen()
	if err != nil {
		r.closeFile()
		return err
	}
	p.record, p.listeners = r, ls
	p.gate = gate{authority: r.authority(), folder: p.Folder, session: Secret(), now: time.Now}
	return nil
}

// Origin returns the URL of the editor without a path, for browsers that have a session.
func (p *Proxy) Origin() string { return "http://" + p.gate.authority }

// Invite returns an address that opens the editor once, within InviteLifetime; used is closed when
// it was opened. It invalidates the earlier address.
func (p *Proxy) Invite() (address string, used <-chan struct{}) {
	token, used := p.gate.invite()
	return p.Origin() + "/?" + url.Values{"tkn": {token}}.Encode(), used
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
			if p.editor = editorSession(res.Cookies()); len(p.editor) > 0 {
				return nil
			}
			err = fmt.Errorf("code-server answers %s to a login with its password", res.Status)
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

// Serve forwards requests until ctx ends.
func (p *Proxy) Serve(ctx context.Context) error {
	defer p.record.closeFile()
	inner := &httputil.ReverseProxy{
		Transport: filteringTransport{p.transport()},
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "http", "code-server"
			r.Out.Host = r.In.Host // the editor compares it with Origin
			filterRequest(r.Out.Header, p.Origin(), p.editor)
		},
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, "the VM does not answer", http.StatusBadGateway)
		},
	}
	p.server = &http.Server{
		Handler: p.gate.guard(inner), ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0),
		BaseContext: func(net.Listener) context.Context { return ctx }, DisableGeneralOptionsHandler: true,
	}
	stop := context.AfterFunc(ctx, func() { _ = p.server.Close() })
	defer stop()
	ended := make(chan error, len(p.listeners))
	for _, l := range p.listeners {
		go func() { ended <- p.server.Serve(l) }()
	}
	// If one listener ends, close both: the address needs the pair.
	err := <-ended
	_ = p.server.Close()
	for range len(p.listeners) - 1 {
		<-ended
	}
	if !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
