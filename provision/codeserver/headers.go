package codeserver

import (
	"context"
	"net/http"
	"net/textproto"
	"regexp"
	"strings"
)

// editorCookies maps the browser's cookies that the editor in the guest reads to the form of their
// values. The editor's session cookie is added by the proxy and no browser has it. All other
// cookies are removed: a host name has one set of cookies for all of its ports.
var editorCookies = map[string]*regexp.Regexp{
	"vscode.nls.locale": regexp.MustCompile(`^[A-Za-z0-9_-]{1,35}$`),
}

// editorSession returns code-server's session cookie, if it is among all.
func editorSession(all []*http.Cookie) (session []*http.Cookie) {
	for _, c := range all {
		if strings.HasPrefix(c.Name, "code-server-session") && len(session) == 0 {
			session = append(session, c)
		}
	}
	return session
}

// privateHeaders are request headers with a browser's credentials for other servers.
var privateHeaders = []string{"Authorization", "Proxy-Authorization", "Cookie", "Cookie2"}

// filterRequest removes from a request what the guest must not see, and adds the editor's session.
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

// forbiddenHeaders are response headers that would affect more than the guest's pages: cookies and
// storage, later connections, the browser's reports to servers, and its prompts.
var forbiddenHeaders = []string{
	"Set-Cookie", "Set-Cookie2", "Clear-Site-Data",
	"Strict-Transport-Security", "Public-Key-Pins", "Public-Key-Pins-Report-Only", "Expect-Ct", "Alt-Svc",
	"Www-Authenticate", "Proxy-Authenticate", "Authentication-Info", "Proxy-Authentication-Info",
	"Nel", "Report-To", "Reporting-Endpoints", "X-Frame-Options", "Referrer-Policy",
	"Sec-Session-Registration", "Secure-Session-Registration", "Set-Login",
}

// filterResponse removes forbiddenHeaders and the CORS headers, which would open the editor to other
// origins. Then it adds headers that forbid other origins to frame or load it.
func filterResponse(h http.Header) {
	for _, name := range forbiddenHeaders {
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

// filteringTransport filters the responses of the server in the guest. It is a transport because
// httputil.ReverseProxy copies informational responses and trailers itself.
type filteringTransport struct{ next http.RoundTripper }

func (f filteringTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := f.next.RoundTrip(r.WithContext(untraced{r.Context()}))
	if err != nil {
		return nil, err
	}
	out := *res
	out.Header, out.Trailer = res.Header.Clone(), nil
	filterResponse(out.Header)
	return &out, nil
}

// untraced is a context without values. One of the values is the trace by which the reverse proxy
// receives informational responses (103 Early Hints).
type untraced struct{ context.Context }

func (untraced) Value(any) any { return nil }
