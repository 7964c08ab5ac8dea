package codeserver

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func quiet(string, float64) {}

// fakeNPM installs a tree as npm leaves it, and notes what it was asked for.
const fakeNPM = `#!/bin/sh
echo "$*" >>"$NPM_LOG"
case "$*" in
*node@*) mkdir -p node_modules/node/bin && printf '#!/bin/sh\nexec /bin/sh -c "echo ran $*"\n' >node_modules/node/bin/node && chmod +x node_modules/node/bin/node ;;
*code-server@*)
	command -v node | grep -q /node_modules/node/bin/ || exit 9
	mkdir -p node_modules/code-server/out/node node_modules/code-server/lib/vscode/extensions/copilot node_modules/argon2/prebuilds/darwin-x64 node_modules/x/build/obj.target
	echo x >node_modules/code-server/out/node/entry.js
	echo x >node_modules/code-server/out/node/entry.js.map
	echo x >node_modules/code-server/lib/vscode/extensions/copilot/a
	echo x >node_modules/argon2/prebuilds/darwin-x64/a
	echo x >node_modules/x/build/obj.target/a
	ln -s entry.js node_modules/code-server/out/node/link.js ;;
install-scripts*) exit 1 ;;
esac
`

func TestBuildWithNPM(t *testing.T) {
	dir := t.TempDir()
	npm := filepath.Join(dir, "npm")
	if err := os.WriteFile(npm, []byte(fakeNPM), 0o755); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(dir, "log")
	gone := httptest.NewServer(http.NotFoundHandler())
	defer gone.Close()
	s := Source{
		Dir: filepath.Join(dir, "cache"), LookPath: func(string) (string, error) { return npm, nil },
		Environ: append(os.Environ(), "NPM_LOG="+log), Release: gone.URL, Client: gone.Client(),
	}
	if s.Cached() {
		t.Fatal("cached before")
	}
	if err := s.Get(t.Context(), quiet); err != nil {
		t.Fatal(err)
	}
	var names []string
	for h := range entries(t, s.Path()) {
		names = append(names, strings.TrimPrefix(h, "code-server-"+Version+"/"))
	}
	slices.Sort(names)
	if want := []string{"bin/code-server", "lib/node", "node_modules/code-server/out/node/entry.js", "node_modules/code-server/out/node/link.js"}; !slices.Equal(names, want) {
		t.Errorf("%q", names)
	}
	b, err := os.ReadFile(log)
	if err != nil || strings.Count(string(b), "\n") != 4 {
		t.Errorf("%v\n%s", err, b)
	}
	if left, _ := filepath.Glob(filepath.Join(s.Dir, "work-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	// What is there is not made again.
	if err := s.Get(t.Context(), quiet); err != nil {
		t.Fatal(err)
	}
	if again, _ := os.ReadFile(log); string(again) != string(b) {
		t.Error("npm was asked again")
	}
	// It runs where it is unpacked.
	if out, err := exec.Command("tar", "-xzf", s.Path(), "-C", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	if out, err := exec.Command(filepath.Join(dir, "code-server-"+Version, "bin/code-server"), "--version").CombinedOutput(); err != nil {
		t.Errorf("%v %s", err, out)
	}
}

func entries(t *testing.T, path string) map[string]bool {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zr, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]bool{}
	for tr := tar.NewReader(zr); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out[h.Name] = true
	}
}

func release(t *testing.T, name string) []byte {
	t.Helper()
	var b bytes.Buffer
	zw := gzip.NewWriter(&b)
	tw := tar.NewWriter(zw)
	if err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: 1, Typeflag: tar.TypeReg}); err != nil {
		t.Fatal(err)
	}
	_, _ = tw.Write([]byte("x"))
	_ = tw.Close()
	_ = zw.Close()
	return b.Bytes()
}

func TestFetchTheRelease(t *testing.T) {
	body := release(t, "code-server-1/bin/code-server")
	cut := false
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100000")
		if !cut {
			w.Header().Set("Content-Length", "")
		}
		_, _ = w.Write(body)
	}))
	defer srv.Close()
	s := Source{Dir: t.TempDir(), Release: srv.URL, Client: srv.Client(), LookPath: func(string) (string, error) { return "", exec.ErrNotFound }}
	if err := s.Get(t.Context(), quiet); err != nil || !s.Cached() {
		t.Fatal(err)
	}
	cut = true
	s.Dir = t.TempDir()
	if err := s.Get(t.Context(), quiet); err == nil || s.Cached() || !strings.Contains(err.Error(), "npm is not installed") {
		t.Errorf("half a release: %v", err)
	}
	cut = false
	body = release(t, "something/else")
	if err := s.Get(t.Context(), quiet); err == nil || s.Cached() {
		t.Errorf("another archive: %v", err)
	}
	for name, text := range map[string]string{"text": "hello", "empty": ""} {
		p := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Check(p); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

// TestProxy: an editor with a password of its own is reached by who has the
// token and by nobody else; no browser sees the editor's session.
func TestProxy(t *testing.T) {
	ready := time.Now().Add(700 * time.Millisecond)
	editor := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case time.Now().Before(ready):
			http.Error(w, "not yet", http.StatusServiceUnavailable)
		case r.Method == http.MethodPost && r.URL.Path == "/login" && r.FormValue("password") == "pw":
			http.SetCookie(w, &http.Cookie{Name: "session", Value: "s3cret"})
			http.Redirect(w, r, "/", http.StatusFound)
		default:
			if c, err := r.Cookie("session"); err != nil || c.Value != "s3cret" {
				http.Error(w, "no session", http.StatusUnauthorized)
				return
			}
			for _, c := range r.Cookies() {
				if strings.HasPrefix(c.Name, "aivm-") {
					http.Error(w, "the token leaked", http.StatusTeapot)
					return
				}
			}
			_, _ = io.WriteString(w, r.Host+" "+r.URL.String())
		}
	}))
	defer editor.Close()
	p := &Proxy{Password: "pw", Dial: func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", editor.Listener.Addr().String())
	}}
	if err := p.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := p.Login(ctx); err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- p.Serve(ctx) }()
	own := p.listener.Addr().String()
	get := func(c *http.Client, url, host string, header ...string) (int, string) {
		req, err := http.NewRequest(http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(b)
	}
	jar, _ := cookiejar.New(nil)
	c := &http.Client{Jar: jar}
	if code, _ := get(c, "http://"+own+"/", ""); code != http.StatusForbidden {
		t.Errorf("without a token: %d", code)
	}
	if code, _ := get(c, "http://"+own+"/?tkn=x", ""); code != http.StatusForbidden {
		t.Errorf("with a wrong token: %d", code)
	}
	if code, body := get(c, p.URL("/my folder"), ""); code != 200 || body != own+" /?folder=%2Fmy+folder" {
		t.Errorf("with the token: %d %q", code, body)
	}
	if code, body := get(c, "http://"+own+"/x", "", "Origin", "http://"+own); code != 200 || !strings.HasSuffix(body, "/x") {
		t.Errorf("afterwards: %d %q", code, body)
	}
	if code, _ := get(c, "http://"+own+"/x", "", "Origin", "http://127.0.0.1:1"); code != http.StatusForbidden {
		t.Errorf("another origin: %d", code)
	}
	if code, _ := get(c, "http://"+own+"/", "evil.example:80"); code != http.StatusMisdirectedRequest {
		t.Errorf("another name: %d", code)
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if _, err := net.DialTimeout("tcp", own, time.Second); err == nil {
		t.Error("it still listens")
	}
}
