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

// Invitation is how long an address with a token is good.
const Invitation = 30 * time.Second

const sessionCookie = "aivm-session"

// door decides which requests reach the editor. Who comes with an invitation
// gets a session; who has one and comes from the editor's own pages, or from
// the person, is let through.
type door struct {
	own     string // host name and port, exactly as a browser sends them
	folder  string
	session string // value of the browser's cookie
	now     func() time.Time

	mu      sync.Mutex
	token   string // "" when it was brought
	expires time.Time
	used    chan struct{}
}

// invite makes a token. It takes the place of an earlier one.
func (d *door) invite() (token string, used <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.token, d.expires, d.used = Secret(), d.now().Add(Invitation), make(chan struct{})
	return d.token, d.used
}

// redeem reports whether the token is good, and burns it.
func (d *door) redeem(token string) bool {
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

const again = "In the terminal where aivm runs, press Enter for another address; where it cannot be asked, start it again."

// guard lets through to next what may reach the editor.
func (d *door) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cross-Origin-Resource-Policy", "same-origin")
		if no := d.target(r); no != nil {
			http.Error(w, no.why, no.status)
			return
		}
		if q := r.URL.Query(); r.URL.Path == "/" && q.Has("tkn") {
			d.open(w, r, q["tkn"])
			return
		}
		no := d.source(r)
		if no == nil && !d.known(r) {
			no = &refusal{http.StatusForbidden, "This browser has no session with the editor. " + again}
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

// target checks what a request is for. The Host has to be ours to the letter: a
// page elsewhere whose name was made to mean 127.0.0.1 has another one, and so
// has a page of another VM.
func (d *door) target(r *http.Request) *refusal {
	switch {
	case r.Host != d.own:
		return &refusal{http.StatusMisdirectedRequest, "wrong name"}
	case !strings.HasPrefix(r.RequestURI, "/"), r.URL.Host != "": // absolute, authority and asterisk form
		return &refusal{http.StatusMisdirectedRequest, "wrong form of request"}
	case r.Method == http.MethodConnect || r.Method == http.MethodTrace:
		return &refusal{http.StatusMethodNotAllowed, "wrong method"}
	}
	if up := r.Header.Values("Upgrade"); len(up) > 0 && (len(up) > 1 || !strings.EqualFold(up[0], "websocket") || r.Method != http.MethodGet) {
		return &refusal{http.StatusBadRequest, "no other protocol than WebSocket"}
	}
	return nil
}

// source checks where a request comes from. Browsers say it in Sec-Fetch-Site
// and, where something may change, in Origin; pages can forge neither. One of
// the two has to be there and no one may disagree. Pages of other origins get
// nothing, not as a frame, not as a link: a link could have the editor open and
// run things. What the person types or has as a bookmark may only be shown.
func (d *door) source(r *http.Request) *refusal {
	no := func(why string) *refusal { return &refusal{http.StatusForbidden, why} }
	origin, site := r.Header.Values("Origin"), r.Header.Values("Sec-Fetch-Site")
	if len(origin) > 1 || len(site) > 1 || len(origin) == 1 && origin[0] != "http://"+d.own {
		return no("wrong origin")
	}
	if len(site) == 0 {
		if len(origin) == 0 {
			return no("This browser does not say where its requests come from (Sec-Fetch-Site). Use a newer one.")
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
			return no("Another page led here, and no page but the editor's own may. To open the editor: type its address, http://" + d.own + "/")
		}
	}
	return no("wrong origin")
}

// navigation reports whether the request is for the page of a tab or window.
func navigation(r *http.Request) bool {
	return r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.Header.Get("Sec-Fetch-Dest") == "document"
}

// known reports whether the browser has our session. A guest's page can add
// cookies of the same name below other paths, so all of them are compared.
func (d *door) known(r *http.Request) bool {
	ok := false
	for _, c := range r.CookiesNamed(sessionCookie) {
		ok = equal(c.Value, d.session) || ok
	}
	return ok
}

// open gives a session to who brings a good token. Only a tab's own navigation
// burns it: what a browser fetches ahead, or a page as a frame or image, does
// not.
func (d *door) open(w http.ResponseWriter, r *http.Request, tokens []string) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	switch {
	case r.Method != http.MethodGet || !navigation(r) || len(r.Header.Values("Origin")) > 0 || r.Header.Get("Sec-Purpose") != "" || r.Header.Get("Purpose") != "":
		http.Error(w, "This address is for a browser's tab, of a browser that says so (Sec-Fetch-Mode).", http.StatusForbidden)
		return
	case len(tokens) != 1 || !d.redeem(tokens[0]):
		http.Error(w, fmt.Sprintf("This address was good once, and for %.0f seconds. %s", Invitation.Seconds(), again), http.StatusForbidden)
		return
	}
	http.SetCookie(w, &http.Cookie{Name: sessionCookie, Value: d.session, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode})
	h.Set("Content-Type", "text/html; charset=utf-8")
	// No redirect: the browser would still count as led here by another page,
	// and keep the cookie back.
	_, _ = fmt.Fprint(w, forward("/?"+url.Values{"folder": {d.folder}}.Encode()))
}

// forward is a page that leads on to an address.
func forward(address string) string {
	a := html.EscapeString(address)
	return `<!DOCTYPE html>
<meta charset="utf-8"><meta name="referrer" content="no-referrer"><meta http-equiv="refresh" content="0; url=` + a + `">
<title>aivm</title><p><a href="` + a + `">Open the editor</a></p>
`
}
