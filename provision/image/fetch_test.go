package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"aivm.dev/aivm/internal/download"
	"aivm.dev/aivm/internal/download/downloadtest"
)

const ubuntuFile = "ubuntu-24.04-server-cloudimg-amd64.img"

func wantFile(t *testing.T, e Entry, data []byte) {
	t.Helper()
	b, err := os.ReadFile(e.Path)
	if err != nil || !bytes.Equal(b, data) {
		t.Fatalf("%v, %d bytes of %d", err, len(b), len(data))
	}
	if st, _ := os.Stat(e.Path); st.Mode().Perm() != 0o400 {
		t.Errorf("mode %v", st.Mode())
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(e.Path), download.Prefix+"*")); left != nil {
		t.Errorf("temporary files remain: %v", left)
	}
}

func kind(err error) string {
	var te *download.Error
	if errors.As(err, &te) {
		return te.Kind
	}
	return fmt.Sprint(err)
}

// Fetch looks up the newest build, checks the signature of its list, and finds a newer build by the
// same name; an image in the cache is only verified.
func TestFetchUbuntu(t *testing.T) {
	s := newServer(t)
	data := disk(300 << 10)
	s.publish(t, Default, data, released)
	f := s.fetcher(t, Cache{Dir: filepath.Join(t.TempDir(), "c")})
	var lines []string
	e, changed, err := f.Fetch(context.Background(), ubuntuRef, func(l string, _ float64) { lines = append(lines, l) })
	if err != nil || !changed {
		t.Fatal(changed, err)
	}
	wantFile(t, e, data)
	if e.Release != "2026-11-01" || !strings.HasPrefix(e.Verified, "signed by "+fmt.Sprintf("%X", s.key.PrimaryKey.Fingerprint)) || e.Source != Default {
		t.Errorf("%+v", e)
	}
	if got, ok, err := f.Cache.Lookup(ubuntuRef); got != e || !ok || err != nil {
		t.Errorf("%+v %v %v", got, ok, err)
	}
	if _, changed, err = fetch(f, ubuntuRef); changed || err != nil || len(s.Requests(ubuntuFile)) != 1 {
		t.Errorf("again: %v %v %v", changed, err, s.Requests(ubuntuFile))
	}
	// A damaged file in the cache is noticed and fetched again.
	if err := errors.Join(os.Chmod(e.Path, 0o644), os.WriteFile(e.Path, append(data[:len(data)-1:len(data)-1], 0), 0o644)); err != nil {
		t.Fatal(err)
	}
	if e, changed, err = fetch(f, ubuntuRef); !changed || err != nil {
		t.Fatal(changed, err)
	}
	wantFile(t, e, data)
	newer := disk(200 << 10)
	s.publish(t, Default, newer, released.Add(30*time.Minute))
	if e, changed, err = fetch(f, ubuntuRef); !changed || err != nil {
		t.Fatal(changed, err)
	}
	wantFile(t, e, newer)
	// A server that returns to the older list is refused.
	s.publish(t, Default, data, released)
	if _, _, err = fetch(f, ubuntuRef); err == nil || !strings.Contains(err.Error(), "older than") {
		t.Errorf("an older list was accepted: %v", err)
	}
	if !slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, "looking up the newest") }) {
		t.Errorf("%v", lines)
	}
}

// If a build is published while the previous one is fetched, Fetch looks it up again.
func TestFetchNewBuildDuringDownload(t *testing.T) {
	s := newServer(t)
	old, data := disk(100<<10), disk(90<<10)
	s.publish(t, Default, old, released)
	n := 0
	s.Before(func(w http.ResponseWriter, r *http.Request, f downloadtest.File) bool {
		if strings.Contains(r.URL.Path, "SUMS") {
			return false
		}
		if n++; n == 1 {
			defer s.publish(t, Default, data, released.Add(time.Minute))
			downloadtest.Part(w, r, f, 60<<10)
		}
		return n == 1
	})
	e, changed, err := fetch(s.fetcher(t, Cache{Dir: t.TempDir()}), ubuntuRef)
	if err != nil || !changed {
		t.Fatal(changed, err)
	}
	wantFile(t, e, data)
}

func TestFetchDebian(t *testing.T) {
	s := newServer(t)
	data := disk(100 << 10)
	s.publish(t, "debian-13", data, released)
	f := s.fetcher(t, Cache{Dir: t.TempDir()})
	ref := Ref{Kind: KindCatalogue, Name: "debian-13"}
	e, changed, err := fetch(f, ref)
	if err != nil || !changed {
		t.Fatal(changed, err)
	}
	wantFile(t, e, data)
	if e.Release != "2026-11-01" || !strings.Contains(e.Verified, "SHA512SUMS") || !strings.Contains(e.Verified, "over https, not signed") {
		t.Errorf("%+v", e)
	}
	if _, changed, err = fetch(f, ref); changed || err != nil {
		t.Errorf("again: %v %v", changed, err)
	}
}

// Fetch refuses an image whose list is not signed by a known key, or whose signature is of another
// list.
func TestFetchRefusesSignature(t *testing.T) {
	r, _ := Find(Default)
	gpg := r.Dir + "/" + r.Sums + ".gpg"
	for name, spoil := range map[string]func(*testing.T, *server){
		"another key": func(t *testing.T, s *server) {
			s.Put(gpg, downloadtest.File{Data: sign(t, testKey(t), s.File(r.Dir+"/"+r.Sums).Data, released)})
		},
		"another list": func(t *testing.T, s *server) {
			s.Put(gpg, downloadtest.File{Data: sign(t, s.key, []byte("something else"), released)})
		},
		"none": func(_ *testing.T, s *server) { s.Remove(gpg) },
		"rubbish": func(_ *testing.T, s *server) {
			s.Put(gpg, downloadtest.File{Data: []byte("-----BEGIN PGP SIGNATURE-----\n\nx\n")})
		},
		"empty":           func(_ *testing.T, s *server) { s.Put(gpg, downloadtest.File{Data: nil}) },
		"from the future": func(t *testing.T, s *server) { s.publish(t, Default, disk(1000), released.AddDate(1, 0, 0)) },
		"the key itself":  func(_ *testing.T, s *server) { s.Put(gpg, downloadtest.File{Data: embeddedKeys}) },
		"not in the list": func(t *testing.T, s *server) {
			l := []byte("00  x\n")
			s.Put(r.Dir+"/"+r.Sums, downloadtest.File{Data: l})
			s.Put(gpg, downloadtest.File{Data: sign(t, s.key, l, released)})
		},
		"named twice": func(t *testing.T, s *server) {
			l := []byte(strings.Repeat("0", 64) + "  " + ubuntuFile + "\n" + strings.Repeat("1", 64) + "  " + ubuntuFile + "\n")
			s.Put(r.Dir+"/"+r.Sums, downloadtest.File{Data: l})
			s.Put(gpg, downloadtest.File{Data: sign(t, s.key, l, released)})
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			s.publish(t, Default, disk(1000), released)
			spoil(t, s)
			f := s.fetcher(t, Cache{Dir: t.TempDir()})
			if _, _, err := fetch(f, ubuntuRef); err == nil {
				t.Error("fetched")
			} else {
				t.Log(err)
			}
			if got := s.Requests(ubuntuFile); got != nil {
				t.Errorf("the image was requested: %v", got)
			}
		})
	}
}

func TestFetchURL(t *testing.T) {
	s := newServer(t)
	data := disk(50 << 10)
	overlay := qcow2(func(b []byte) { b[15] = 1 })
	s.Put("/a b.img", downloadtest.File{Data: data})
	s.Put("/overlay", downloadtest.File{Data: overlay})
	sum := func(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }
	f := s.fetcher(t, Cache{Dir: t.TempDir()})
	ref := Ref{Kind: KindURL, URL: s.URL + "/a%20b.img", SHA256: sum(data)}
	e, _, err := fetch(f, ref)
	if err != nil {
		t.Fatal(err)
	}
	wantFile(t, e, data)
	if _, ok, err := f.Cache.Lookup(ref); !ok || err != nil {
		t.Error(ok, err)
	}
	ref.SHA256 = strings.Repeat("1", 64)
	if _, ok, err := f.Cache.Lookup(ref); ok || err != nil {
		t.Error("found under another digest", ok, err)
	}
	if _, _, err := fetch(f, ref); kind(err) != download.Checksum {
		t.Error(err)
	}
	ref.SHA256 = ""
	if _, _, err := fetch(f, ref); err == nil || !strings.Contains(err.Error(), "digest") {
		t.Error(err)
	}
	// An overlay is refused although its digest is right.
	if _, _, err := fetch(f, Ref{Kind: KindURL, URL: s.URL + "/overlay", SHA256: sum(overlay)}); err == nil || !strings.Contains(err.Error(), "overlay") {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Join(f.Cache.Dir, download.Prefix+"*")); len(left) > 1 {
		t.Errorf("%v", left)
	}
}

// A pinned digest overrides the list: it needs no signature and no list, and an error says when a
// newer build was published.
func TestFetchPinned(t *testing.T) {
	s := newServer(t)
	data := disk(50 << 10)
	s.publish(t, Default, data, released)
	r, _ := Find(Default)
	s.Remove(r.Dir + "/SHA256SUMS.gpg")
	ref := ubuntuRef
	ref.SHA256 = fmt.Sprintf("%x", sha256.Sum256(data))
	f := s.fetcher(t, Cache{Dir: t.TempDir()})
	if e, _, err := fetch(f, ref); err != nil || !strings.Contains(e.Verified, "given with it") {
		t.Fatalf("%+v %v", e, err)
	}
	s.Remove(r.Dir + "/SHA256SUMS")
	if _, _, err := fetch(s.fetcher(t, Cache{Dir: t.TempDir()}), ref); err != nil {
		t.Fatal(err)
	}
	s.publish(t, Default, disk(60<<10), released)
	if _, _, err := fetch(s.fetcher(t, Cache{Dir: t.TempDir()}), ref); err == nil || !strings.Contains(err.Error(), "newer build") {
		t.Error(err)
	}
	if got := len(s.Requests(ubuntuFile)); got != 2 {
		t.Errorf("%d requests for the file", got)
	}
}

// Fetch uses the proxy of the environment, which sees only a CONNECT tunnel.
func TestFetchThroughAProxy(t *testing.T) {
	s := newServer(t)
	data := disk(50 << 10)
	s.publish(t, Default, data, released)
	var tunnels atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Host != "images.example:443" {
			http.Error(w, r.Host, http.StatusBadGateway)
			return
		}
		tunnels.Add(1)
		tunnel(w, s.Listener.Addr().String())
	}))
	defer proxy.Close()
	f := s.fetcher(t, Cache{Dir: t.TempDir()})
	f.Origin = "https://images.example"
	f.TLS.ServerName = "example.com" // the name in the test server's certificate
	// Go reads the environment once a process, so this test checks the proxy function of the HTTP
	// client.
	u, _ := url.Parse(proxy.URL)
	tr := f.web().HTTP().Transport.(*http.Transport)
	if tr.Proxy == nil || !tr.DisableCompression {
		t.Error("the client does not use the environment's proxies")
	}
	tr.Proxy = http.ProxyURL(u)
	if e, _, err := fetch(f, ubuntuRef); err != nil {
		t.Fatal(err)
	} else {
		wantFile(t, e, data)
	}
	if tunnels.Load() == 0 {
		t.Error("the proxy was not used")
	}
}

func tunnel(w http.ResponseWriter, to string) {
	back, err := (&net.Dialer{}).Dial("tcp", to)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	w.WriteHeader(http.StatusOK)
	front, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		back.Close()
		return
	}
	go func() { _, _ = io.Copy(back, front); back.Close() }()
	go func() { _, _ = io.Copy(front, back); front.Close() }()
}

// Of several processes that want one image, one fetches it.
func TestFetchAtOnce(t *testing.T) {
	s := newServer(t)
	data := disk(200 << 10)
	s.publish(t, Default, data, released)
	s.Before(func(http.ResponseWriter, *http.Request, downloadtest.File) bool {
		time.Sleep(200 * time.Millisecond)
		return false
	})
	dir := t.TempDir()
	var waits atomic.Int32
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			c := Cache{Dir: dir}
			e, ok, release, err := c.Claim(context.Background(), ubuntuRef, func(l string, _ float64) {
				if strings.Contains(l, "waiting for aivm (process ") {
					waits.Add(1)
				}
			})
			if err != nil {
				t.Error(err)
				return
			}
			defer release()
			if !ok {
				if e, _, err = fetch(s.fetcher(t, c), ubuntuRef); err != nil {
					t.Error(err)
					return
				}
			}
			if b, err := os.ReadFile(e.Path); err != nil || !bytes.Equal(b, data) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := len(s.Requests(ubuntuFile)); n != 1 || waits.Load() != 3 {
		t.Errorf("fetched %d times, %d waited", n, waits.Load())
	}
}

func TestDefaultReachable(t *testing.T) {
	s := newServer(t)
	f := s.fetcher(t, Cache{Dir: t.TempDir()})
	if f.DefaultReachable(context.Background()) {
		t.Error("reachable although the server has no list")
	}
	s.publish(t, Default, disk(1000), released)
	if !f.DefaultReachable(context.Background()) {
		t.Error("not reachable")
	}
	// The login page of a captive portal does not count as a list.
	r, _ := Find(Default)
	s.Put(r.Dir+"/"+r.Sums, downloadtest.File{Data: []byte("<html>log in</html>")})
	if f.DefaultReachable(context.Background()) {
		t.Error("reachable although the server shows a login page")
	}
	// A server that accepts the connection and sends nothing.
	f.answersIn = 200 * time.Millisecond
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	f.Origin = "https://" + silent.Addr().String()
	began := time.Now()
	if f.DefaultReachable(context.Background()) || time.Since(began) > 5*time.Second {
		t.Errorf("a silent server: %v", time.Since(began))
	}
	f.Origin = s.URL
	s.Close()
	if f.DefaultReachable(context.Background()) {
		t.Error("reachable although the server is down")
	}
}
