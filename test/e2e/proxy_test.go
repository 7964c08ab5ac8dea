package e2e

import (
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"aivm.dev/aivm/test/chromium"
)

// fakeBrowser creates a $BROWSER that records its arguments and the page it gets. The test opens that
// page in the real Chromium.
func fakeBrowser(t *testing.T, w *world) string {
	t.Helper()
	path := filepath.Join(w.home, "bin", "browser")
	write(t, path, `#!/bin/sh
stat -c '%a %u' "$1" "$(dirname "$1")" >"$HOME/browser.stat"
cp "$1" "$HOME/browser.page"
tr '\0' '\n' </proc/$$/cmdline >"$HOME/browser.part"
mv "$HOME/browser.part" "$HOME/browser.argv"
`, 0o755)
	return path
}

// checkOpened tests how the browser gets its token: by a file that only the user can read, never on
// the command line. The file leads Chromium to the editor and is then removed; the token works once.
func checkOpened(t *testing.T, w *world, b *browser, origin string) {
	t.Helper()
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(w.home, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(w.home, "browser.argv")); err == nil {
			break
		}
	}
	argv := strings.Fields(read("browser.argv"))
	page := argv[len(argv)-1]
	b.Open("file://" + page)
	if got, want := read("browser.stat"), fmt.Sprintf("600 %d\n700 %[1]d\n", os.Getuid()); got != want {
		t.Errorf("the page and its directory: %q", got)
	}
	token := regexp.MustCompile(`tkn=([0-9a-f]{48})`).FindStringSubmatch(read("browser.page"))
	if token == nil || strings.Contains(strings.Join(argv, " "), token[1]) {
		t.Fatalf("the page has the token %q, the browser's command line is %q", token, argv)
	}
	if !b.Until(fmt.Sprintf("location.href.startsWith(%q)", origin+"?folder="), time.Minute) {
		t.Fatalf("the page redirects to %v: %s", b.Eval("location.href"), b.Text())
	}
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if _, err := os.Stat(page); err != nil {
			break
		}
	}
	if _, err := os.Stat(page); err == nil {
		t.Errorf("%s still exists", page)
	}
	other := chromium.Start(t).NewPage()
	other.Open(origin + "?tkn=" + html.UnescapeString(token[1]))
	if !other.Until("document.body.innerText.includes('valid once')", 20*time.Second) {
		t.Errorf("the token used a second time, in another browser: %s", other.Text())
	}
}

// guestServer starts an HTTP server on port 3000 of the guest that logs requests in /tmp/seen.log.
const guestServer = `cat >/tmp/seen.py <<'EOF'
import http.server
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(s):
        with open('/tmp/seen.log', 'a') as f:
            f.write(s.requestline + '\n' + str(s.headers))
        s.send_response(200)
        s.send_header('Set-Cookie', 'guest=1; Path=/')
        s.end_headers()
        s.wfile.write(b'ok')
    do_POST = do_PUT = do_OPTIONS = do_HEAD = do_GET
http.server.ThreadingHTTPServer(('127.0.0.1', 3000), H).serve_forever()
EOF
nohup python3 /tmp/seen.py >/dev/null 2>&1 & echo $! >/tmp/seen.pid
for i in $(seq 100); do ss -Hltn 'sport = 3000' | grep -q . && exit 0; sleep 0.1; done; exit 1`

// checkOrigins tests the proxy's origins: a page of another origin cannot use the browser's session
// to reach the guest, and a server in the guest gets neither the session cookie nor cookies of
// services on the host.
func checkOrigins(t *testing.T, w *world, vm string, b *browser, origin string) {
	t.Helper()
	w.guest(vm, guestServer)
	host := strings.Split(strings.TrimPrefix(origin, "http://"), ":")[0]
	service := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/redirect" {
			http.Redirect(rw, r, r.URL.Query().Get("to"), http.StatusFound)
			return
		}
		http.SetCookie(rw, &http.Cookie{Name: "login", Value: "s3rvice", Path: "/"})
		rw.Header().Set("Content-Type", "text/html")
		_, _ = fmt.Fprint(rw, "<title>service</title>")
	}))
	defer service.Close()
	attack, err := os.ReadFile("../proxy/testdata/attack.js")
	if err != nil {
		t.Fatal(err)
	}
	ask := func(path string) any { return b.Eval("fetch('/proxy/3000/" + path + "').then(r => r.status)") }
	if got := ask("before"); got != 200.0 {
		t.Errorf("the editor's page gets status %v from a port of the guest", got)
	}
	tab := b.NewPage()
	for _, name := range []string{"127.0.0.1", "localhost", host} {
		tab.Open(strings.Replace(service.URL, "127.0.0.1", name, 1))
		if !tab.Until(fmt.Sprintf("document.title === 'service' && location.hostname === %q", name), 20*time.Second) {
			t.Fatalf("the service is not reachable as %s: %s", name, tab.Text())
		}
		tab.Eval(fmt.Sprintf("(%s)(%q)", attack, strings.TrimSuffix(origin, "/")))
	}
	time.Sleep(2 * time.Second)
	if got := ask("after"); got != 200.0 {
		t.Errorf("the editor's page gets status %v after the attack", got)
	}
	seen := w.guest(vm, "cat /tmp/seen.log; kill $(cat /tmp/seen.pid)")
	for _, want := range []string{"GET /before", "GET /after"} {
		if !strings.Contains(seen, want) {
			t.Errorf("the server in the guest got no %s", want)
		}
	}
	for _, bad := range []string{"attack", "s3rvice", "login", "aivm-session", "guest=1", "tkn"} {
		if strings.Contains(seen, bad) {
			t.Errorf("the server in the guest got %q:\n%s", bad, seen)
		}
	}
}
