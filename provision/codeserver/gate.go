package codeserver

import (
	"crypto/subtle"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// InviteLifetime is how long an address with a token is valid.
const InviteLifetime = 30 * time.Second

const sessionCookie = "aivm-session"

// gate decides which requests reach the editor. A browser that brings a valid token gets a session.
// Requests with a session pass if they come from the editor's own pages or were typed by the user.
type gate struct {
	authority string // host name and port, exactly as a browser sends them
	folder    string
	session   string // value of the browser's cookie
	now       func() time.Time

	mu      sync.Mutex
	token   string // "" after it was used
	expires time.Time
	used    chan struct{}
}

// invite creates a token, which replaces the earlier one. used is closed when the token is used.
func (d *gate) invite() (token string, used <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.token, d.expires, d.used = Secret(), d.now().Add(InviteLifetime), make(chan struct{})
	return d.token, d.used
}

// redeem reports whether the token is valid, and invalidates it.
func (d *gate) redeem(token string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.token == "" || !equal(token, d.token) {
		return false
	}
	d.token = ""
	if !d.now().Before(d.expires) {
		return false
	}
	close(d.used)
	return true
}

func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// refusal is why a request does not reach the editor.
type refusal struct {
	status int
	why    string
}

const newAddressHint = "In the terminal where aivm runs, press Enter for another address; if that is not possible, start aivm again."

// guard passes the requests that may reach the editor to next.
func (d *gate) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cross-Origin-Resource-Policy", "same-origin")
		if no := d.checkTarget(r); no != nil {
			http.Error(w, no.why, no.status)
			return
		}
		if q := r.URL.Query(); r.URL.Path == "/" && q.Has("tkn") {
			d.startSession(w, r, q["tkn"])
			return
		}
		no := d.checkSource(r)
		if no == nil && !d.hasSession(r) {
			no = &refusal{http.StatusForbidden, "This browser has no session with the editor. " + newAddressHint}
		}
		if no != nil {
			http.Error(w, no.why, no.status)
			return
		}
		for name := range w.Header() {
			w.Header().Del(name)
		}
		next.ServeHTTP(w, r)
	})
}

// checkTarget checks the Host header and the form of a request. Host must be exactly the gate's: a
// page of another site whose name resolves to 127.0.0.1 (DNS rebinding) sends another one, and so
// does a page of another VM.
func (d *gate) checkTarget(r *http.Request) *refusal {
	switch {
	case r.Host != d.authority:
		return &refusal{http.StatusMisdirectedRequest, "wrong name"}
	case !strings.HasPrefix(r.RequestURI, "/"), r.URL.Host != "": // absolute, authority and asterisk form
		return &refusal{http.StatusMisdirectedRequest, "wrong form of request"}
	case r.Method == http.MethodConnect || r.Method == http.MethodTrace:
		return &refusal{http.StatusMethodNotAllowed, "wrong method"}
	}
	if up := r.Header.Values("Upgrade"); len(up) > 0 && (len(up) > 1 || !strings.EqualFold(up[0], "websocket") || r.Method != http.MethodGet) {
		return &refusal{http.StatusBadRequest, "only WebSocket upgrades are allowed"}
	}
	return nil
}

// checkSource checks where a request comes from. Browsers send Sec-Fetch-Site and, with requests
// that may change something, Origin; pages can forge neither. At least one of them must be present,
// and both must allow the request. Pages of other origins get nothing, neither in a frame nor
// through a link: a link could make the editor open and run files. A typed address or bookmark may
// only navigate.
func (d *gate) checkSource(r *http.Request) *refusal {
	no := func(why string) *refusal { return &refusal{http.StatusForbidden, why} }
	origin, site := r.Header.Values("Origin"), r.Header.Values("Sec-Fetch-Site")
	if len(origin) > 1 || len(site) > 1 || len(origin) == 1 && origin[0] != "http://"+d.authority {
		return no("wrong origin")
	}
	if len(site) == 0 {
		if len(origin) == 0 {
			return no("This browser does not send the header Sec-Fetch-Site. Use a newer one.")
		}
		return nil
	}
	switch site[0] {
	case "same-origin":
		return nil
	case "none":
		if (r.Method == http.MethodGet || r.Method == http.MethodHead) && navigation(r) && r.Header.Get("Upgrade") == "" {
			return nil
		}
	default:
		if navigation(r) {
			return no("Another site linked to this page, which is not allowed. To open the editor, type its address: http://" + d.authority + "/")
		}
	}
	return no("wrong origin")
}

// navigation reports whether the request is for the page of a tab or window.
func navigation(r *http.Request) bool {
	return r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.Header.Get("Sec-Fetch-Dest") == "document"
}

// hasSession reports whether the browser has the session cookie. A guest's page can add cookies of
// the same name for other paths, so all of them are compared.
func (d *gate) hasSession(r *http.Request) bool {
	ok := false
	for _, c := range r.CookiesNamed(sessionCookie) {
		ok = equal(c.Value, d.session) || ok
	}
	return ok
}

// startSession sets the session cookie for a request with a valid token. Only the navigation of a
// tab uses the token up; a prefetch, or a page that loads the address as a frame or image, does
// not.
func (d *gate) startSession(w http.ResponseWriter, r *http.Request, tokens []string) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	switch {
	case r.Method != http.MethodGet || !navigation(r) || len(r.Header.Values("Origin")) > 0 || r.Header.Get("Sec-Purpose") != "" || r.Header.Get("Purpose") != "":
		http.Error(w, "Open this address in a browser tab, of a browser that sends the header Sec-Fetch-Mode.", http.StatusForbidden)
		return
	case len(tokens) != 1 || !d.redeem(tokens[0]):
		http.Error(w, fmt.Sprintf("This address was valid once, for %.0f seconds. %s", InviteLifetime.Seconds(), newAddressHint), http.StatusForbidden)
		return
	}
	http.SetCookie(w, &http.Cookie{Name: sessionCookie, Value: d.session, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode})
	h.Set("Content-Type", "text/html; charset=utf-8")
	// No redirect: the browser would still count the request as coming from another site, and would
	// not send the cookie (SameSite=Strict).
	_, _ = fmt.Fprint(w, redirectPage("/?"+url.Values{"folder": {d.folder}}.Encode()))
}

// redirectPage returns an HTML page that forwards to an address.
func redirectPage(address string) string {
	a := html.EscapeString(address)
	return `<!DOCTYPE html>
<meta charset="utf-8"><meta name="referrer" content="no-referrer"><meta http-equiv="refresh" content="0; url=` + a + `">
<title>aivm</title><p><a href="` + a + `">Open the editor</a></p>
`
}
