package codeserver

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"aivm.dev/aivm/internal/download"
	"aivm.dev/aivm/internal/download/downloadtest"
)

func quiet(string, float64) {}

// fakeNPM installs a tree like npm's, and logs its arguments.
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

func noNPM(string) (string, error) { return "", exec.ErrNotFound }

// fetching returns a Source whose release, with that content, is on a test server.
func fetching(t *testing.T, s *downloadtest.Server, body []byte) Source {
	t.Helper()
	s.Put("/code-server.tar.gz", downloadtest.File{Data: body, ETag: `"1"`})
	return Source{
		Dir: t.TempDir(), LookPath: noNPM, Environ: os.Environ(),
		Release: s.URL + "/code-server.tar.gz", SHA256: fmt.Sprintf("%x", sha256.Sum256(body)),
		Client: &download.Client{TLS: s.TLS(), OneTry: true, Pause: func(time.Duration) time.Duration { return 0 }},
	}
}

// If a server accepts the connection and sends nothing, Get gives up in time and tries to build the
// archive.
func TestSilentReleaseServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := fetching(t, downloadtest.New(t), nil)
	s.Release, s.Client.Stall = "https://"+l.Addr().String()+"/", 50*time.Millisecond
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := s.Get(ctx, quiet); err == nil || !strings.Contains(err.Error(), "no data received for 50ms") || !strings.Contains(err.Error(), "npm is not installed") {
		t.Error(err)
	}
}

// The digests are complete and lower case: a short one would cause a panic, an upper-case one would
// never match.
func TestDigests(t *testing.T) {
	for arch, d := range digests {
		if b, err := hex.DecodeString(d); err != nil || len(b) != sha256.Size || strings.ToLower(d) != d {
			t.Errorf("%s: %q", arch, d)
		}
	}
}

func TestBuildWithNPM(t *testing.T) {
	dir := t.TempDir()
	npm := filepath.Join(dir, "npm")
	if err := os.WriteFile(npm, []byte(fakeNPM), 0o755); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(dir, "log")
	server := downloadtest.New(t)
	s := fetching(t, server, []byte("a release"))
	server.Remove("/code-server.tar.gz")
	s.Dir, s.LookPath, s.Environ = filepath.Join(dir, "cache"), func(string) (string, error) { return npm, nil }, append(os.Environ(), "NPM_LOG="+log)
	// A part of a release that could be fetched once, and now cannot.
	if err := errors.Join(os.Mkdir(s.Dir, 0o700), os.WriteFile(filepath.Join(s.Dir, download.Prefix+s.SHA256[:32]), []byte("a rel"), 0o600)); err != nil {
		t.Fatal(err)
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
	if remaining, _ := filepath.Glob(filepath.Join(s.Dir, "work-*")); len(remaining) > 0 || download.Parts(s.Dir) != nil {
		t.Errorf("left behind: %v %v", remaining, download.Parts(s.Dir))
	}
	// An archive in the cache is not built again.
	if err := s.Get(t.Context(), quiet); err != nil {
		t.Fatal(err)
	}
	if again, _ := os.ReadFile(log); string(again) != string(b) {
		t.Error("npm ran again")
	}
	// The unpacked program runs in any directory.
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
	server := downloadtest.New(t)
	body := release(t, "code-server-1/bin/code-server")
	s := fetching(t, server, body)
	if err := s.Get(t.Context(), quiet); err != nil || !s.Cached() {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(s.Path()); err != nil || !bytes.Equal(b, body) || download.Parts(s.Dir) != nil {
		t.Errorf("%d bytes of %d, %v, left behind: %v", len(b), len(body), err, download.Parts(s.Dir))
	}

	// Half of it, and the rest in a later run.
	s = fetching(t, server, body)
	server.Before(func(w http.ResponseWriter, r *http.Request, f downloadtest.File) bool {
		if at := downloadtest.RangeStart(r); at > 0 {
			panic(http.ErrAbortHandler)
		}
		downloadtest.Part(w, r, f, len(f.Data)/2)
		return true
	})
	if err := s.Get(t.Context(), quiet); err == nil || s.Cached() || !strings.Contains(err.Error(), "npm is not installed") {
		t.Errorf("half a release: %v", err)
	}
	server.Before(nil)
	before := len(server.Requests("code-server.tar.gz"))
	if err := s.Get(t.Context(), quiet); err != nil || !s.Cached() {
		t.Errorf("the other half: %v", err)
	}
	if got := server.Requests("code-server.tar.gz")[before:]; len(got) != 1 || !strings.Contains(got[0], "bytes=") {
		t.Errorf("asked for %q", got)
	}

	// A file with another digest than the pinned one, an archive that is not code-server's, and an
	// architecture without a release.
	for what, change := range map[string]func(s *Source){
		"checksum": func(*Source) {
			server.Put("/code-server.tar.gz", downloadtest.File{Data: release(t, "code-server-1/bin/code-server2")})
		},
		"no bin/code-server":    func(s *Source) { *s = fetching(t, server, release(t, "something/else")) },
		"for this architecture": func(s *Source) { s.SHA256 = "" },
	} {
		s = fetching(t, server, body)
		change(&s)
		if err := s.Get(t.Context(), quiet); err == nil || s.Cached() || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
		if parts := download.Parts(s.Dir); parts != nil {
			t.Errorf("%s: left behind: %v", what, parts)
		}
	}
	for name, text := range map[string]string{"text": "hello", "empty": ""} {
		p := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Check(p); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

// Login waits until the editor has started, and keeps its session cookie and no other one.
func TestLoginWaits(t *testing.T) {
	ready := time.Now().Add(700 * time.Millisecond)
	editor := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case time.Now().Before(ready):
			http.Error(w, "not yet", http.StatusServiceUnavailable)
		case r.Method == http.MethodPost && r.URL.Path == "/login" && r.FormValue("password") == "pw":
			http.SetCookie(w, &http.Cookie{Name: "other", Value: "x"})
			http.SetCookie(w, &http.Cookie{Name: "code-server-session", Value: "s3cret"})
			http.Redirect(w, r, "/", http.StatusFound)
		}
	}))
	defer editor.Close()
	p := &Proxy{Password: "pw", Dial: func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", editor.Listener.Addr().String())
	}}
	if err := p.Login(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(p.editor) != 1 || p.editor[0].Value != "s3cret" {
		t.Errorf("%v", p.editor)
	}
}

// An address is valid for thirty seconds; one that is opened later does not count as used.
func TestInviteExpires(t *testing.T) {
	now := time.Now()
	d := gate{now: func() time.Time { return now }}
	redeem := func(after time.Duration) (ok, done bool) {
		token, used := d.invite()
		now = now.Add(after)
		ok = d.redeem(token)
		select {
		case <-used:
			done = true
		default:
		}
		if d.redeem(token) {
			t.Errorf("a token was valid twice, after %v", after)
		}
		return ok, done
	}
	if ok, done := redeem(29 * time.Second); !ok || !done {
		t.Errorf("after 29 seconds: %v %v", ok, done)
	}
	if ok, done := redeem(30 * time.Second); ok || done {
		t.Errorf("after 30 seconds: %v %v", ok, done)
	}
	if d.redeem("") {
		t.Error("an empty token was accepted")
	}
}

// Pages are readable by this user only, in both directories, and pages of killed runs are removed.
func TestPage(t *testing.T) {
	top := t.TempDir()
	open, closed := filepath.Join(top, "open"), filepath.Join(top, "closed")
	if err := errors.Join(os.Mkdir(open, 0o755), os.Mkdir(closed, 0o700), os.Symlink(closed, filepath.Join(top, "link"))); err != nil {
		t.Fatal(err)
	}
	for runtime, want := range map[string]string{closed: closed + "/aivm", open: top + "/state/.open", top + "/link": top + "/state/.open", "": top + "/state/.open", top + "/none": top + "/state/.open"} {
		if got := PageDir(runtime, top+"/state"); got != want {
			t.Errorf("PageDir(%q) = %s", runtime, got)
		}
	}
	dir := PageDir(closed, top)
	old, _, err := WritePage(dir, "http://x/?tkn=1")
	if err != nil {
		t.Fatal(err)
	}
	past := time.Now().Add(-time.Hour)
	if err := os.Chtimes(old, past, past); err != nil {
		t.Fatal(err)
	}
	path, remove, err := WritePage(dir, `http://x/?tkn="><script>`)
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st, err)
	}
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("%v %v", st, err)
	}
	if b, _ := os.ReadFile(path); strings.Contains(string(b), "<script>") {
		t.Errorf("%s", b)
	}
	if _, err := os.Stat(old); err == nil {
		t.Error("an old page is still there")
	}
	remove()
	if _, err := os.Stat(dir); err == nil {
		t.Error("the directory is still there")
	}
}

// A run that removes its page does not remove the directory of another run's page.
func TestPagesAtOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "open")
	var runs sync.WaitGroup
	for range 4 {
		runs.Go(func() {
			for range 200 {
				path, remove, err := WritePage(dir, "http://x/?tkn=1")
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := os.Stat(path); err != nil {
					t.Error(err)
				}
				remove()
			}
		})
	}
	runs.Wait()
	if _, err := os.Lstat(dir); err == nil {
		t.Errorf("%s is still there", dir)
	}
}
