package codeserver

import (
	"context"
	"net/http"
	"net/textproto"
	"regexp"
	"strings"
)

// editorCookies are the cookies of the browser that the editor in the guest
// reads, with what their values look like. Its session is added on the way and
// known to no browser. All others stay here: a host name has one set of cookies
// for all of its ports.
var editorCookies = map[string]*regexp.Regexp{
	"vscode.nls.locale": regexp.MustCompile(`^[A-Za-z0-9_-]{1,35}$`),
}

// editorSession returns those of the cookies that are code-server's session.
func editorSession(all []*http.Cookie) (session []*http.Cookie) {
	for _, c := range all {
		if strings.HasPrefix(c.Name, "code-server-session") && len(session) == 0 {
			session = append(session, c)
		}
	}
	return session
}

// privateHeaders are a browser's credentials for somebody else.
var privateHeaders = []string{"Authorization", "Proxy-Authorization", "Cookie", "Cookie2"}

// filterRequest takes from a request what the guest must not see, and adds the
// editor's session.
func filterRequest(h http.Header, origin string, session []*http.Cookie) {
	sent := (&http.Request{Header: h}).Cookies()
	for _, name := range privateHeaders {
		h.Del(name)
	}
	r := &http.Request{Header: h}
	for _, c := range session {
		r.AddCookie(&http.Cookie{Name: c.Name, Value: c.Value})
	}
	for _, c := range sent {
		if value := editorCookies[c.Name]; value != nil && value.MatchString(c.Value) {
			r.AddCookie(&http.Cookie{Name: c.Name, Value: c.Value})
		}
	}
	if ref := h.Get("Referer"); ref != "" && !strings.HasPrefix(ref, origin+"/") {
		h.Del("Referer")
	}
}

// forbidden are headers of a response with which a guest would act beyond its
// pages: on cookies and storage, on later connections, on what the browser
// reports where, and on what it asks the person for.
var forbidden = []string{
	"Set-Cookie", "Set-Cookie2", "Clear-Site-Data",
	"Strict-Transport-Security", "Public-Key-Pins", "Public-Key-Pins-Report-Only", "Expect-Ct", "Alt-Svc",
	"Www-Authenticate", "Proxy-Authenticate", "Authentication-Info", "Proxy-Authentication-Info",
	"Nel", "Report-To", "Reporting-Endpoints", "X-Frame-Options", "Referrer-Policy",
	"Sec-Session-Registration", "Secure-Session-Registration", "Set-Login",
}

// filterResponse takes them out, and what would share the editor with other
// origins; then it says that no other origin may show or load it.
func filterResponse(h http.Header) {
	for _, name := range forbidden {
		h.Del(name)
	}
	for name := range h {
		if strings.HasPrefix(textproto.CanonicalMIMEHeaderKey(name), "Access-Control-") {
			delete(h, name)
		}
	}
	h.Add("Content-Security-Policy", "frame-ancestors 'self'")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Referrer-Policy", "same-origin")
}

// filtered passes on what a server in the guest answers, without what it may
// not say. It is a transport, so that informational answers and trailers, which
// a reverse proxy copies by itself, do not get past it.
type filtered struct{ next http.RoundTripper }

func (f filtered) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := f.next.RoundTrip(r.WithContext(untraced{r.Context()}))
	if err != nil {
		return nil, err
	}
	out := *res
	out.Header, out.Trailer = res.Header.Clone(), nil
	filterResponse(out.Header)
	return &out, nil
}

// untraced is a context without values: the reverse proxy learns of
// informational answers (103 Early Hints) by one of them.
type untraced struct{ context.Context }

func (untraced) Value(any) any { return nil }
