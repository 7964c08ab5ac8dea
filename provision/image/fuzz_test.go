package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// FuzzSums checks that sumOf returns only digests on a line with the name, and that in a list of
// several files it finds the digest of each.
func FuzzSums(f *testing.F) {
	a := strings.Repeat("0a", 32)
	f.Add([]byte(a+"  x.img\n"+a+" *./y.img\r\n"), "x.img")
	f.Add([]byte(a+"  x.img\n"+strings.Repeat("0b", 32)+"  x.img\n"), "x.img")
	f.Add([]byte(strings.ToUpper(a)+" *x y"), "x y")
	f.Fuzz(func(t *testing.T, list []byte, name string) {
		for _, digits := range []int{64, 128} {
			sum, err := sumOf(list, name, digits)
			if err != nil {
				continue
			}
			if len(sum) != digits || !bytes.Contains(bytes.ToLower(list), []byte(sum)) || !bytes.Contains(list, []byte(name)) {
				t.Errorf("%s of %q is not in the list", sum, name)
			}
		}
		if len(name) > 4096 || strings.ContainsAny(name, "\n\r") || strings.HasPrefix(name, "./") {
			return
		}
		// A list as sha256sum writes it, with the name between two similar ones.
		h := sha256.Sum256(list)
		own, other := hex.EncodeToString(h[:]), strings.Repeat("1f", 32)
		for _, kind := range []string{"  ", " *"} {
			text := fmt.Sprintf("%s%s%s\n%s%s%s\n%s%s%s\n", other, kind, name+"x", own, kind, name, other, kind, "x"+name)
			if strings.TrimPrefix("x"+name, "./") == name {
				continue
			}
			if sum, err := sumOf([]byte(text), name, 64); err != nil || sum != own {
				t.Errorf("%q: %s %v", text, sum, err)
			}
		}
	})
}

// FuzzSignature checks that checkSignature accepts only what the key's owner signed, whatever the
// signature claims.
func FuzzSignature(f *testing.F) {
	made := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	conf := func() *packet.Config {
		return &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, Time: func() time.Time { return made }}
	}
	key, err := openpgp.NewEntity("k", "", "k@example.org", conf())
	if err != nil {
		f.Fatal(err)
	}
	keys := openpgp.EntityList{key}
	list := []byte(strings.Repeat("0a", 32) + "  x.img\n")
	var plain, armoured bytes.Buffer
	if err := openpgp.DetachSign(&plain, key, bytes.NewReader(list), conf()); err != nil {
		f.Fatal(err)
	}
	if err := openpgp.ArmoredDetachSign(&armoured, key, bytes.NewReader(list), conf()); err != nil {
		f.Fatal(err)
	}
	f.Add(list, plain.Bytes())
	f.Add(list, armoured.Bytes())
	f.Add([]byte("other"), plain.Bytes())
	f.Add(list, []byte("-----BEGIN PGP MESSAGE-----\n\n=aaaa\n-----END PGP MESSAGE-----\n"))
	now := func() time.Time { return made.Add(time.Hour) }
	f.Fuzz(func(t *testing.T, text, sig []byte) {
		who, err := checkSignature(keys, text, sig, now)
		switch {
		case err != nil:
		case !bytes.Equal(text, list):
			t.Errorf("%q is accepted as signed", text)
		case who.Fingerprint != fmt.Sprintf("%X", key.PrimaryKey.Fingerprint) || !who.At.Equal(made):
			t.Errorf("signed by %+v", who)
		}
		// The signed list stays valid, whatever was read before.
		if _, err := checkSignature(keys, list, plain.Bytes(), now); err != nil {
			t.Errorf("the valid signature: %v", err)
		}
		// The same bytes as a keyring either give keys, or chooseKeys returns the embedded ones.
		if ks, err := chooseKeys(sig, embeddedKeys); err != nil || len(ks) == 0 {
			t.Errorf("%d keys: %v", len(ks), err)
		}
	})
}

// FuzzRef checks that Parse reads back what Full writes, and that a URL of 0.3 never selects
// another server than it names.
func FuzzRef(f *testing.F) {
	for _, s := range []string{
		"auto", "ubuntu-24.04", "debian-12#sha256=" + strings.Repeat("aB", 32), "packages:debian-12", "./x", "~/x", "file:///a/../b",
		"https://h/x.img#sha512=" + strings.Repeat("0a", 64), "tools", "https://cloud-images.ubuntu.com/releases/noble/release-20240423/ubuntu-24.04-server-cloudimg-amd64.img",
		"/a#sha256=" + strings.Repeat("ab", 32), "#sha256=", "http://h/", "https://u:p@h/",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := Parse(s)
		if err != nil {
			return
		}
		again, err := Parse(r.Full())
		if err != nil || again != r {
			t.Errorf("%q is %+v, written %q, read %+v: %v", s, r, r.Full(), again, err)
		}
		if r.SHA256 != "" && r.SHA512 != "" {
			t.Errorf("%q has two digests", s)
		}
		if r.Kind == KindURL && (!strings.HasPrefix(r.URL, "https://") || strings.Contains(r.URL, "#")) {
			t.Errorf("%q is fetched from %q", s, r.URL)
		}
		if old, note, err := FromOldURL(s, false); err == nil && old != r && (note == "" || !strings.Contains(s, "cloud-images.ubuntu.com")) {
			t.Errorf("%q became %+v without a note", s, old)
		}
	})
}

// FuzzIndex checks that loadIndex reads the index, or refuses it with its path and leaves it
// unchanged, and that a saved index is read back.
func FuzzIndex(f *testing.F) {
	f.Add([]byte(`{"schema":1,"images":[{"sha256":"aa","format":"qcow2"}],"sources":{"auto":"aa"},"files":[]}`))
	f.Add([]byte(`{"schema":2,"images":"new"}`))
	f.Add([]byte("null"))
	f.Add([]byte(`{"schema":1,"sources":null}`))
	dir := f.TempDir()
	c := Cache{Dir: dir}
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(c.indexPath(), data, 0o600); err != nil {
			t.Fatal(err)
		}
		ix, err := c.loadIndex()
		if err != nil {
			if !strings.Contains(err.Error(), c.indexPath()) {
				t.Errorf("the error does not name the file: %v", err)
			}
			return
		}
		file := &fileKey{Path: "/x", Size: 1}
		ix.record(indexed{SHA256: "ff", Format: QCOW2}, "src", nil)
		ix.record(indexed{SHA256: "fe", Format: Raw}, "", file)
		if err := c.saveIndex(ix); err != nil {
			t.Fatal(err)
		}
		back, err := c.loadIndex()
		if err != nil || back.Sources["src"] != "ff" || len(back.Images) != len(ix.Images) || len(back.Files) != len(ix.Files) {
			t.Errorf("%+v became %+v: %v", ix, back, err)
		}
	})
}

// FuzzSources checks that parsing apt's files terminates, and that each mirror is in the input, is
// http or https, and gives no secret to an image.
func FuzzSources(f *testing.F) {
	f.Add("deb [arch=amd64 signed-by=/k] http://m/debian bookworm main # x\n deb-src http://m x y\n", "Types: deb deb-src\nURIs: https://m/debian\n  http://n/debian\nSuites: bookworm\nComponents: main\nEnabled: yes\n\n# c\nTypes: deb\n")
	f.Add("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://u:p%zz@m/d bookworm main", "")
	f.Add("deb\thttp://u:p@m/ubuntu noble main", "types : deb\nuris:http://x\nsuites:noble\ncomponents:main\nSigned-By:\n -----BEGIN\n .\n")
	f.Fuzz(func(t *testing.T, list, sources string) {
		es := readSources(fstest.MapFS{
			"sources.list":             {Data: []byte(list)},
			"sources.list.d/a.sources": {Data: []byte(sources)},
			"sources.list.d/b.list":    {Data: []byte(list)},
			"sources.list.d/c.bak":     {Data: []byte(list)},
		})
		for _, e := range es {
			for _, u := range e.uris {
				if !strings.Contains(list, u) && !strings.Contains(sources, u) {
					t.Errorf("%q is not in the input", u)
				}
			}
			if e.options == nil {
				t.Error("a mirror without options")
			}
		}
		ms := debianVendor.mirrors(fstest.MapFS{"sources.list": {Data: []byte(list)}, "sources.list.d/a.sources": {Data: []byte(sources)}})
		if len(ms) > 0 && ms[0].pocket != "" {
			t.Errorf("the suite without a pocket is not first: %+v", ms)
		}
		text := recipes[Debian12].deb822(ms)
		for line := range strings.Lines(text) {
			if uri, ok := strings.CutPrefix(line, "URIs: "); ok && strings.Contains(strings.SplitN(uri, "/", 4)[2], "@") {
				t.Errorf("the guest gets %q", line)
			}
		}
		if n := strings.Count(text, "\nURIs: "); n != len(ms) {
			t.Errorf("%d stanzas of %d mirrors:\n%s", n, len(ms), text)
		}
	})
}

// A mirror's password stays on the host, also in a URI that url.Parse refuses.
func TestWithoutUser(t *testing.T) {
	for uri, want := range map[string]string{
		"http://m/debian": "http://m/debian", "https://u:p@m/debian": "https://m/debian", "http://u:p%zz@m/debian": "http://m/debian",
		"http://u:p@q@m": "http://m", "http://m/a@b": "http://m/a@b", "http://u:p^@[::1]:80/d?x=@": "http://[::1]:80/d?x=@",
	} {
		if got := withoutUser(uri); got != want {
			t.Errorf("%q became %q", uri, got)
		}
	}
}
