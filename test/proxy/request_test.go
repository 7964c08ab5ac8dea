package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"aivm.dev/aivm/provision/codeserver"
)

// raw sends text unchanged to address and returns the response with its body.
func raw(t *testing.T, address, text string) (*http.Response, string) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatalf("%v: after %q", err, text)
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(res.Body, 1<<16))
	return res, string(body)
}

// tabRequest has the headers with which a browser's tab loads a URL; callers append the
// value of the last one.
const tabRequest = "Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\nSec-Fetch-Site: "

// session uses an invitation and returns the header line with the session cookie.
func session(t *testing.T, p *codeserver.Proxy) string {
	t.Helper()
	address, used := p.Invite()
	u := mustURL(t, address)
	get := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\n%scross-site\r\n", u.RequestURI(), u.Host, tabRequest)
	loop := "127.0.0.1:" + u.Port()
	// Requests that are not the navigation of a tab do not use up the invitation.
	for what, request := range map[string]string{
		"fetched ahead":    get + "Sec-Purpose: prefetch\r\n\r\n",
		"with an origin":   get + "Origin: null\r\n\r\n",
		"as a frame":       strings.Replace(get, "Dest: document", "Dest: iframe", 1) + "\r\n",
		"by a script":      strings.Replace(get, "Mode: navigate", "Mode: cors", 1) + "\r\n",
		"by no browser":    fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", u.RequestURI(), u.Host),
		"posted":           strings.Replace(get, "GET", "POST", 1) + "Content-Length: 0\r\n\r\n",
		"under 127.0.0.1":  strings.Replace(get, u.Host, loop, 1) + "\r\n",
		"with two tokens":  strings.Replace(get, " HTTP", "&tkn=x HTTP", 1) + "\r\n",
		"with another one": strings.Replace(get, "tkn=", "tkn=0", 1) + "\r\n",
	} {
		if res, _ := raw(t, loop, request); res.StatusCode < 400 || len(res.Cookies()) > 0 {
			t.Errorf("an invitation %s: %s", what, res.Status)
		}
	}
	select {
	case <-used:
		t.Error("the invitation is reported as used")
	default:
	}
	res, body := raw(t, loop, get+"\r\n")
	if res.StatusCode != 200 || len(res.Cookies()) != 1 || !strings.Contains(body, "/?folder=%2Fwork%2FA") {
		t.Fatalf("an invitation: %s %s", res.Status, body)
	}
	k := res.Cookies()[0]
	if !k.HttpOnly || k.SameSite != http.SameSiteStrictMode || k.Domain != "" || k.Path != "/" || !strings.Contains(res.Header.Get("Cache-Control"), "no-store") || strings.Contains(u.RawQuery, k.Value) {
		t.Errorf("the session: %+v %v", k, res.Header)
	}
	<-used
	if res, body := raw(t, loop, get+"\r\n"); res.StatusCode != http.StatusForbidden || len(res.Cookies()) > 0 || !strings.Contains(body, "valid once") {
		t.Errorf("an invitation for the second time: %s %s", res.Status, body)
	}
	old, _ := p.Invite()
	_, _ = p.Invite()
	if res, _ := raw(t, loop, strings.Replace(get, u.RequestURI(), mustURL(t, old).RequestURI(), 1)+"\r\n"); res.StatusCode != http.StatusForbidden {
		t.Errorf("an invitation that was replaced by another one: %s", res.Status)
	}
	return "Cookie: " + k.Name + "=" + k.Value + "\r\n"
}

// TestRequests checks that, even with a valid session cookie, only requests that the browser makes
// for this editor reach the guest.
func TestRequests(t *testing.T) {
	a := newSite(t, "A")
	a.header = http.Header{"Clear-Site-Data": {`"*"`}, "Set-Cookie": {"x=1"}, "Access-Control-Allow-Origin": {"*"}, "Alt-Svc": {"x"}, "Www-Authenticate": {"Basic"}, "X-Frame-Options": {"ALLOWALL"}, "Content-Security-Policy": {"img-src 'self'"}}
	p, _ := serve(t, a, "")
	cookie := session(t, p)
	u := mustURL(t, p.Origin())
	host, loop := u.Host, "127.0.0.1:"+u.Port()
	own := "Origin: http://" + host + "\r\n"
	const same, none = "Sec-Fetch-Site: same-origin\r\n", tabRequest + "none\r\n"
	line := func(method, path, host string) string {
		return method + " " + path + " HTTP/1.1\r\nHost: " + host + "\r\n" + cookie
	}
	get, post := line("GET", "/seen", host), line("POST", "/seen", host)+"Content-Length: 0\r\n"
	socket := get + "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n"
	for _, tc := range []struct {
		what, request string
		status        int
	}{
		{"its own page", get + same, 200},
		{"typed", get + none, 200},
		{"its own page's POST", post + same + own, 200},
		{"an older browser's POST", post + own, 200},
		{"its own page's WebSocket", socket + same + own, 101},
		{"a WebSocket without fetch metadata", socket + own, 101},

		{"another name", line("GET", "/seen", "evil.example:"+u.Port()) + same, 421},
		{"the loopback address", line("GET", "/seen", loop) + same, 421},
		{"the IPv6 loopback address", line("GET", "/seen", "[::1]:"+u.Port()) + same, 421},
		{"localhost", line("GET", "/seen", "localhost:"+u.Port()) + same, 421},
		{"no port", line("GET", "/seen", u.Hostname()) + same, 421},
		{"another port", line("GET", "/seen", u.Hostname()+":1") + same, 421},
		{"capitals", line("GET", "/seen", strings.ToUpper(host)) + same, 421},
		{"a trailing dot", line("GET", "/seen", u.Hostname()+".:"+u.Port()) + same, 421},
		{"a subdomain", line("GET", "/seen", "x."+host) + same, 421},
		{"a user", line("GET", "/seen", "x@"+host) + same, 400},
		{"an empty Host", line("GET", "/seen", "") + same, 421},
		{"two Hosts", get + "Host: evil.example\r\n" + same, 400},
		{"twice its Host", get + "Host: " + host + "\r\n" + same, 400},
		{"no Host", "GET /seen HTTP/1.1\r\n" + cookie + same, 400},
		{"HTTP/1.0 without Host", "GET /seen HTTP/1.0\r\n" + cookie + same, 421},
		{"an absolute target", line("GET", "http://"+host+"/seen", host) + same, 421},
		{"an absolute target with another Host", line("GET", "http://"+host+"/seen", "evil.example") + same, 421},
		{"another absolute target", line("GET", "http://evil.example/seen", host) + same, 421},
		{"CONNECT", line("CONNECT", host, host) + same, 421},
		{"an asterisk", line("OPTIONS", "*", host) + same, 421},
		{"TRACE", line("TRACE", "/seen", host) + same, 405},

		{"no session", strings.Replace(get, cookie, "", 1) + same, 403},
		{"a wrong session", strings.Replace(get, cookie, "Cookie: aivm-session=x\r\n", 1) + same, 403},
		{"nothing about its source", get, 403},
		{"a POST without a source", post, 403},
		{"a WebSocket without a source", socket, 403},
		{"another site", get + "Sec-Fetch-Site: cross-site\r\n", 403},
		{"another site's link", get + tabRequest + "cross-site\r\n", 403},
		{"another port's page", get + "Sec-Fetch-Site: same-site\r\n", 403},
		{"another port's link", get + tabRequest + "same-site\r\n", 403},
		{"an unknown value", get + "Sec-Fetch-Site: x\r\n", 403},
		{"two values", get + same + "Sec-Fetch-Site: cross-site\r\n", 403},
		{"origin null", post + "Origin: null\r\n", 403},
		{"origin null of the same origin", post + same + "Origin: null\r\n", 403},
		{"an empty origin", post + same + "Origin:\r\n", 403},
		{"two origins", post + own + "Origin: null\r\n", 403},
		{"another origin", post + same + "Origin: http://" + loop + "\r\n", 403},
		{"the origin of another port", post + "Origin: http://" + u.Hostname() + ":1\r\n", 403},
		{"the origin with https", post + "Origin: https://" + host + "\r\n", 403},
		{"another site with its origin", post + "Sec-Fetch-Site: cross-site\r\n" + own, 403},
		{"a typed POST", post + none, 403},
		{"a WebSocket of origin null", socket + same + "Origin: null\r\n", 403},
		{"a typed WebSocket", socket + none, 403},
		{"none without a tab", get + "Sec-Fetch-Site: none\r\n", 403},
		{"another protocol", get + same + "Connection: Upgrade\r\nUpgrade: h2c\r\n", 400},
		{"two protocols", socket + same + own + "Upgrade: h2c\r\n", 400},
	} {
		before := len(a.requests(""))
		res, body := raw(t, loop, tc.request+"Authorization: Basic c2VjcmV0\r\nReferer: http://other.example/secret\r\n\r\n")
		if res.StatusCode != tc.status {
			t.Errorf("%s: %s %s", tc.what, res.Status, body)
		}
		reached := len(a.requests("")) > before
		if reached != (tc.status == 200 || tc.status == 101) {
			t.Errorf("%s: the guest was reached: %v", tc.what, reached)
		}
		for _, name := range []string{"Clear-Site-Data", "Set-Cookie", "Access-Control-Allow-Origin", "Alt-Svc", "Www-Authenticate", "X-Frame-Options"} {
			if v := res.Header.Get(name); v != "" {
				t.Errorf("%s: the answer has %s: %s", tc.what, name, v)
			}
		}
		if csp := res.Header.Values("Content-Security-Policy"); res.StatusCode == 200 && strings.Join(csp, " | ") != "img-src 'self' | frame-ancestors 'self'" {
			t.Errorf("%s: %q", tc.what, csp)
		}
	}
	for _, r := range a.requests("/seen") {
		for _, bad := range []string{"Authorization", "other.example", "aivm-session"} {
			if strings.Contains(dump(r), bad) {
				t.Errorf("the guest was sent %s:\n%s", bad, dump(r))
			}
		}
	}
	// Headers of early hints and trailers are filtered too.
	c, err := net.Dial("tcp", loop)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, line("GET", "/hints", host)+same+"TE: trailers\r\nConnection: close\r\n\r\n")
	all, err := io.ReadAll(c)
	if err != nil || !strings.HasPrefix(string(all), "HTTP/1.1 200") || strings.Contains(string(all), "hinted") || strings.Contains(string(all), "Trailer") {
		t.Errorf("%v\n%s", err, all)
	}
}

// TestAddress checks that a VM keeps its host name and port, on both loopback addresses, and that it
// gets a new host name and port if another process uses the port.
func TestAddress(t *testing.T) {
	s := newSite(t, "A")
	record := filepath.Join(t.TempDir(), "browser.json")
	p, end := serve(t, s, record)
	first := p.Origin()
	st, err := os.Stat(record)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st, err)
	}
	port := mustURL(t, first).Port()
	for _, ip := range []string{"127.0.0.1", "::1"} {
		if l, err := net.Listen("tcp", net.JoinHostPort(ip, port)); err == nil {
			t.Errorf("another process could listen on %s", ip)
			_ = l.Close()
		}
	}
	other, endOther := serve(t, s, record)
	if a, b := mustURL(t, first), mustURL(t, other.Origin()); a.Hostname() == b.Hostname() || a.Port() == b.Port() {
		t.Errorf("two runs at once: %s and %s", a, b)
	}
	endOther()
	end()
	p, end = serve(t, s, record)
	if p.Origin() != first {
		t.Errorf("%s, before %s", p.Origin(), first)
	}
	end()
	// Another user may take the port, on either address.
	for _, ip := range []string{"127.0.0.1", "::1"} {
		before := p.Origin()
		l, err := net.Listen("tcp", net.JoinHostPort(ip, mustURL(t, before).Port()))
		if err != nil {
			t.Fatal(err)
		}
		p, end = serve(t, s, record)
		if a, b := mustURL(t, before), mustURL(t, p.Origin()); a.Hostname() == b.Hostname() || a.Port() == b.Port() {
			t.Errorf("after the port was taken on %s: %s, before %s", ip, b, a)
		}
		end()
		_ = l.Close()
		now := p.Origin()
		p, end = serve(t, s, record)
		if p.Origin() != now {
			t.Errorf("%s, before %s", p.Origin(), now)
		}
		end()
	}
	for what, text := range map[string]string{
		"half":           `{"schema":1,"host":"ai`,
		"another's name": `{"schema":1,"host":"localhost","port":25000}`,
		"a low port":     `{"schema":1,"host":"aivm-00112233445566778899.localhost","port":22}`,
	} {
		if err := os.WriteFile(record, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		p, end = serve(t, s, record)
		if strings.Contains(text, mustURL(t, p.Origin()).Hostname()) {
			t.Errorf("a record with %s was used: %s", what, p.Origin())
		}
		end()
	}
	later := `{"schema":2,"news":1}`
	if err := os.WriteFile(record, []byte(later), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := newProxy(s, record).Listen(); err == nil || !strings.Contains(err.Error(), "version 2") {
		t.Errorf("a newer aivm's record: %v", err)
	}
	if b, _ := os.ReadFile(record); string(b) != later {
		t.Errorf("it was overwritten: %s", b)
	}
}
