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

// Secret returns a random word for a token or a password.
func Secret() string {
	var b [24]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// Proxy is the way from a browser on this machine to the editor in a guest. The
// guest's side of it is hostile: it is any web page, and any HTTP server.
type Proxy struct {
	Dial     func(ctx context.Context) (net.Conn, error) // to the editor
	Password string                                      // the editor's own
	Folder   string                                      // opened first
	Record   string                                      // file that remembers the address; "": none does

	record    *record
	listeners []net.Listener
	door      door
	editor    []*http.Cookie // the editor's session, which no browser sees
	server    *http.Server
}

// Listen takes the address of the VM, or another one if its port is taken.
func (p *Proxy) Listen() error {
	r, err := openRecord(p.Record)
	if err != nil {
		return err
	}
	ls, err := r.listen()
	if err != nil {
		r.close()
		return err
	}
	p.record, p.listeners = r, ls
	p.door = door{own: r.authority(), folder: p.Folder, session: Secret(), now: time.Now}
	return nil
}

// Origin is the address of the editor, for who has a session.
func (p *Proxy) Origin() string { return "http://" + p.door.own }

// Invite returns an address that opens the editor once, within Invitation, and
// is closed when that has happened. An earlier one is no longer good.
func (p *Proxy) Invite() (address string, used <-chan struct{}) {
	token, used := p.door.invite()
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
	defer p.record.close()
	inner := &httputil.ReverseProxy{
		Transport: filtered{p.transport()},
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
		Handler: p.door.guard(inner), ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0),
		BaseContext: func(net.Listener) context.Context { return ctx }, DisableGeneralOptionsHandler: true,
	}
	stop := context.AfterFunc(ctx, func() { _ = p.server.Close() })
	defer stop()
	ended := make(chan error, len(p.listeners))
	for _, l := range p.listeners {
		go func() { ended <- p.server.Serve(l) }()
	}
	// One that ends takes the other along: half of the pair is no address.
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
