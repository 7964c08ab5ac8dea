package root

import (
	"bytes"
	"encoding/xml"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzHookXML: what libvirt tells a hook of a VM is read to its end or refused;
// only an element of our namespace makes somebody its owner.
func FuzzHookXML(f *testing.F) {
	f.Add([]byte(`<domain type='kvm'><name>a</name><metadata><aivm:mark xmlns:aivm="urn:aivm:mark:1" owner="1000"/></metadata><devices><interface type='network'>` +
		`<mac address='52:54:00:01:02:03'/><source network='aivm-net' bridge='virbr1'/><target dev='vnet7'/></interface></devices></domain>`))
	f.Add([]byte(`<domain><metadata><mark xmlns="urn:other" owner="0"/><mark xmlns="urn:aivm:mark:1" owner="-1"/></metadata></domain>`))
	f.Add([]byte("<domain><devices><interface><source/></interface>"))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := readHooked(bytes.NewReader(b))
		if err != nil {
			return
		}
		owner, ok := d.owner()
		if ok && (owner < 0 || !bytes.Contains(b, []byte("aivm")) && !bytes.Contains(b, []byte("&"))) {
			t.Errorf("owner %d of %q", owner, b)
		}
		// The definition for which a user's helper may put up a wall is read by
		// the same decoder from a file; it has to be one document.
		if xml.Unmarshal(b, new(struct {
			XMLName xml.Name
		})) != nil && ok && bytes.Count(b, []byte("urn:aivm:mark:1")) == 0 && !bytes.Contains(b, []byte("&")) {
			t.Errorf("an owner from what is no document: %q", b)
		}
	})
}

// FuzzManifest: a manifest is one of this format, or an error that names the
// file; of a later format it is told apart whatever else is in it.
func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"version":1,"owner":0,"wall":{"network":"n"},"local":["10.0.0.0/8"]}`))
	f.Add([]byte(`{"version":2,"wall":"other"}`))
	f.Add([]byte(`{"version":1,"folders":[{"src":"/x","vm_key":"0-a"}]}`))
	f.Add([]byte(`{"version":0}`))
	path := filepath.Join(f.TempDir(), "m.json")
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		var n NetManifest
		err := readManifest(path, &n)
		if os.Geteuid() != 0 {
			return // not root's, so refused
		}
		if err != nil && !strings.Contains(err.Error(), path) && len(b) > 0 {
			t.Errorf("which file? %v", err)
		}
		if err == nil && n.Version > manifestVersion {
			t.Errorf("version %d passes", n.Version)
		}
		var v VMManifest
		if verr := readManifest(path, &v); errors.Is(err, errNewer) != errors.Is(verr, errNewer) {
			t.Errorf("newer to one and not to the other: %v, %v", err, verr)
		}
		if err == nil {
			_ = n.Wall.Check()
		}
	})
}

// FuzzAptStatus: apt's progress is a share of a whole, or no progress.
func FuzzAptStatus(f *testing.F) {
	f.Add("pmstatus:libc6:amd64:20.0:Unpacking")
	f.Add("dlstatus:1:50.5:Retrieving file 1 of 2")
	f.Add("pmstatus:x:NaN:y")
	f.Fuzz(func(t *testing.T, line string) {
		if s, ok := parseAptStatus(line); ok && (s.percent < 0 || s.percent > 100 || s.percent != s.percent || !strings.HasSuffix(line, s.text)) {
			t.Errorf("%+v of %q", s, line)
		}
	})
}

// What a later aivm wrote down is refused by its name and stays as it is, by
// whoever asks: also by root, who replaces a damaged one.
func TestManifestOfALaterAivm(t *testing.T) {
	work, ok := privately(t)
	if !ok {
		return
	}
	stage(t, work, unix.MS_PRIVATE)
	release, err := manifests()
	must(t, err)
	release()
	for path, text := range map[string]string{
		netManifest("later"):   `{"version":9,"wall":["of","another","shape"]}`,
		vmManifest("0-later"):  `{"version":9,"folders":{}}`,
		netManifest("damaged"): `{"version":`,
	} {
		must(t, os.WriteFile(path, []byte(text), 0o644))
		var n NetManifest
		if err := readManifest(path, &n); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, caller := range []int{0, 1000} {
		if err := owns("later", caller); !errors.Is(err, errNewer) {
			t.Errorf("uid %d: %v", caller, err)
		}
	}
	if err := owns("damaged", 0); err != nil {
		t.Errorf("root may not mend a damaged one: %v", err)
	}
	if err := noteFolders("0-later", func(l []Bind) []Bind { return append(l, Bind{VMKey: "0-later", Token: "x"}) }); !errors.Is(err, errNewer) {
		t.Errorf("noting a folder: %v", err)
	}
	if b, err := os.ReadFile(vmManifest("0-later")); err != nil || string(b) != `{"version":9,"folders":{}}` {
		t.Errorf("%q %v", b, err)
	}
}
