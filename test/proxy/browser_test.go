package proxy

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"aivm.dev/aivm/test/chromium"
)

// attackKinds are the kinds of requests that attack.js and the test itself make, sorted.
var attackKinds = []string{
	"beacon", "cors", "events", "fetch", "form-blank", "form-frame", "form-get", "iframe", "iframe-redirect", "img", "link", "null-fetch", "null-form",
	"object", "open", "open-redirect", "post", "preflight", "redirect", "refresh", "script", "style", "top", "websocket", "worker",
}

// TestTwoEditorsAndAService opens the editors of two guests and a service with a login in one
// browser. No guest may get data of the service or of the other guest.
func TestTwoEditorsAndAService(t *testing.T) {
	a, b, service := newSite(t, "A"), newSite(t, "B"), newSite(t, "service")
	a.header = http.Header{
		"Set-Cookie": {
			"guest=1; Path=/", "guest-domain=1; Path=/; Domain=localhost", "guest-dot=1; Path=/; Domain=.localhost",
			"aivm-session=stolen; Path=/; HttpOnly", "aivm-session=stolen; Path=/proxy", "__Host-guest=1; Path=/; Secure",
		},
		"Clear-Site-Data": {`"cookies", "storage"`}, "Access-Control-Allow-Origin": {"*"}, "Www-Authenticate": {`Basic realm="your password"`},
		"Strict-Transport-Security": {"max-age=1000; includeSubDomains"}, "Alt-Svc": {`h2=":1"`},
	}
	pa, _ := serve(t, a, filepath.Join(t.TempDir(), "a"))
	pb, _ := serve(t, b, filepath.Join(t.TempDir(), "b"))
	c := chromium.Start(t)

	// The service sets login cookies under both usual names of the loopback interface.
	tab := c.NewPage()
	service.header = http.Header{"Set-Cookie": {"login=s3rvice; Path=/", "login-http=s3rvice; Path=/; HttpOnly; SameSite=Lax", "vscode-tkn=s3rvice; Path=/"}}
	port := service.Listener.Addr().String()[len("127.0.0.1:"):]
	tab.Open("http://127.0.0.1:" + port + "/")
	tab.Until("document.title === 'service'", 10*time.Second)
	service.header["Set-Cookie"] = append(service.header["Set-Cookie"], "login-domain=s3rvice; Path=/; Domain=localhost")
	tab.Open("http://localhost:" + port + "/")
	tab.Until("document.title === 'service' && location.hostname === 'localhost'", 10*time.Second)
	tab.Eval("document.cookie = 'login-script=s3rvice; path=/; domain=localhost'")
	if n := len(c.Cookies()); n < 6 {
		t.Fatalf("the service set only %d cookies, so the test would prove nothing", n)
	}
	service.header = http.Header{}

	// Both editors open and work.
	tabs := map[*site]*chromium.Page{}
	for s, p := range map[*site]string{a: invitation(t, pa), b: invitation(t, pb)} {
		tabs[s] = c.NewPage()
		tabs[s].Open(p)
		if !tabs[s].Until(fmt.Sprintf("document.title === %q", s.name), 20*time.Second) {
			t.Fatalf("the editor of %s does not open: %v %s", s.name, c.Pages(), tabs[s].Text())
		}
	}
	checkWorks(t, tabs[a], a)

	// The page of A attacks B. The same attacks on the service show that each of them reaches a server
	// that has no proxy.
	attack, err := os.ReadFile("testdata/attack.js")
	if err != nil {
		t.Fatal(err)
	}
	originB := fmt.Sprint(tabs[b].Eval("location.origin"))
	for _, target := range []string{service.URL, originB} {
		tabs[a].Eval(fmt.Sprintf("(%s)(%q)", attack, target))
		top := c.NewPage()
		top.Open(fmt.Sprint(tabs[a].Eval("location.origin")) + "/")
		top.Until("document.title === 'A'", 10*time.Second)
		top.Eval(fmt.Sprintf("location.href = %q", target+"/proxy/3000/attack-top"))
	}
	for end := time.Now().Add(10 * time.Second); len(service.attacks()) < len(attackKinds) && time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
	}
	if got := service.attacks(); !slices.Equal(got, attackKinds) {
		t.Errorf("only these attacks reach a server without a proxy: %q", got)
	}
	time.Sleep(time.Second)
	for _, r := range b.requests("/attack-") {
		t.Errorf("a page of A reached B:\n%s", dump(r))
	}

	// Open the service under A's host name, so that it sets its cookies there.
	service.header = http.Header{"Set-Cookie": {"login-here=s3rvice; Path=/"}}
	tab.Open("http://" + mustURL(t, pa.Origin()).Hostname() + ":" + port + "/here")
	tab.Until("location.pathname === '/here' && document.title === 'service'", 10*time.Second)
	if !slices.ContainsFunc(c.Cookies(), func(k chromium.Cookie) bool { return k.Name == "login-here" }) {
		t.Error("the service set no cookie under the host name of A, so the test would prove nothing")
	}
	service.header = http.Header{}

	// The cookies that A sets have no effect: both sessions are still valid.
	tabs[a].Eval(`['guest-script=1; path=/; domain=localhost', 'aivm-session=stolen; path=/', 'aivm-session=stolen; path=/proxy/'].forEach(c => document.cookie = c)`)
	for s, p := range tabs {
		p.Open(fmt.Sprint(p.Eval("location.origin")) + "/proxy/3000/again")
		if !p.Until(fmt.Sprintf("document.title === %q && location.pathname === '/proxy/3000/again'", s.name), 10*time.Second) {
			t.Errorf("the session of %s is lost: %s", s.name, p.Text())
		}
	}
	checkSeen(t, a, b)
	hostB := mustURL(t, originB).Hostname()
	for _, k := range c.Cookies() {
		if strings.HasPrefix(k.Name, "guest") && (k.Domain == hostB || strings.HasSuffix(k.Domain, "localhost") && !strings.HasPrefix(k.Domain, "aivm-")) || k.Name == "hinted" || k.Name == "by-socket" || k.Name == "__Host-guest" {
			t.Errorf("a guest set %+v", k)
		}
	}
}

// checkWorks checks that the proxy allows what an editor needs.
func checkWorks(t *testing.T, p *chromium.Page, s *site) {
	t.Helper()
	for _, c := range []struct{ what, expr string }{
		{"a GET", `fetch('/x').then(r => r.text()).then(t => t.includes('/x of A'))`},
		{"a POST", `fetch('/mint-key', {method: 'POST', body: 'y'}).then(r => r.ok)`},
		{"a frame", `new Promise(ok => { const f = document.createElement('iframe'); f.onload = () => ok(f.contentDocument.title === 'A'); f.src = '/frame'; document.body.appendChild(f) })`},
		{"a WebSocket", `new Promise(ok => { new WebSocket('ws://' + location.host + '/socket').onmessage = m => ok(m.data === 'hello from A') })`},
		{"early hints", `fetch('/hints').then(r => r.text()).then(t => t === 'hints')`},
		{"a service worker", `navigator.serviceWorker.register('/sw.js', {scope: '/sub/'}).then(r => new Promise(ok => { const w = r.installing || r.active; if (w.state === 'activated') ok(true); w.onstatechange = () => w.state === 'activated' && ok(true) }))`},
		{"its pages", `new Promise(ok => { const f = document.createElement('iframe'); f.onload = () => f.contentWindow.fetch('/by-worker').then(r => r.text()).then(t => ok(t === 'from the worker')); f.src = '/sub/page'; document.body.appendChild(f) })`},
		{"a worker", `new Promise(ok => { new Worker(URL.createObjectURL(new Blob(["fetch(" + JSON.stringify(location.origin + '/by-blob') + ").then(r => postMessage(r.ok))"]))).onmessage = m => ok(m.data) })`},
		{"a language", `(document.cookie = 'vscode.nls.locale=de; path=/', fetch('/locale').then(r => r.ok))`},
	} {
		if p.Eval(c.expr) != true {
			t.Errorf("%s does not work", c.what)
		}
	}
	if r := s.requests("/locale"); len(r) != 1 || !strings.Contains(r[0].Header.Get("Cookie"), "vscode.nls.locale=de") {
		t.Errorf("the editor's own cookie does not arrive: %v", r)
	}
}

// checkSeen checks that requests to the guests contain no data of the service or of aivm's session.
func checkSeen(t *testing.T, guests ...*site) {
	t.Helper()
	for _, s := range guests {
		all := s.requests("")
		if len(all) < 3 {
			t.Errorf("%s saw %d requests", s.name, len(all))
		}
		for _, r := range all {
			text := dump(r)
			for _, bad := range []string{"s3rvice", "login", "tkn", "aivm-session", "guest", "Authorization"} {
				if strings.Contains(text, bad) && r.URL.Path != "/login" {
					t.Errorf("%s was sent %q:\n%s", s.name, bad, text)
				}
			}
		}
	}
}

func mustURL(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
